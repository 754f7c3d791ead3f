"""The routes of the model: embed, classify, detect, heat map."""

from __future__ import annotations

import asyncio
from typing import Annotated

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, UploadFile
from PIL import Image

from kdeov.prompts import as_templates
from kdeov.runtime.detections import Selection
from pipeline.inference.labels import given_labels, require_text
from pipeline.serve.holder import ModelHolder
from pipeline.serve.routes.answers import (
    Classification,
    DetectedObject,
    Detection,
    Embeddings,
    Heatmap,
    Label,
    Texts,
)
from pipeline.serve.routes.images import heatmap_png, read_upload
from pipeline.serve.settings import Settings

Upload = Annotated[UploadFile, File(description="An image.")]
Labels = Annotated[
    list[str],
    Form(description="Labels: the field repeated, or one field with commas between them."),
]


def add_model_routes(app: FastAPI, holder: ModelHolder, settings: Settings) -> None:
    """Adds the routes that need the model alone."""

    @app.post("/embed", summary="Embed an image")
    async def embed(image: Upload) -> Embeddings:
        async with holder.use() as served:
            row = await served.embed(await uploaded(image, settings))
            return Embeddings(embeddings=[row.tolist()], model=served.model.image_digest)

    @app.post("/embed_text", summary="Embed texts")
    async def embed_text(body: Texts) -> Embeddings:
        texts = checked_texts(body.texts, settings)
        async with holder.use() as served:
            rows = await served.texts(texts)
            return Embeddings(embeddings=rows.tolist(), model=served.model.text_digest)

    @app.post("/classify", summary="Classify an image by any labels")
    async def classify(
        image: Upload,
        labels: Labels,
        templates: Annotated[
            list[str] | None, Form(description="Prompts with {}, or the name of a set.")
        ] = None,
    ) -> Classification:
        names = checked_labels(labels, settings)
        prompts = checked_templates(templates, len(names), settings)
        async with holder.use() as served:
            classes = await served.classes(names, prompts)
            row = await served.embed(await uploaded(image, settings))
            logits = served.model.logit_scale * (classes @ row).astype(np.float64)
        odds = np.exp(logits - logits.max())
        probabilities = odds / odds.sum()
        order = np.argsort(-probabilities, kind="stable")
        return Classification(
            labels=[Label(label=names[n], probability=float(probabilities[n])) for n in order]
        )

    @app.post("/detect", summary="Find objects of any classes")
    async def detect(
        image: Upload,
        labels: Labels,
        min_score: Annotated[float, Form(ge=0, le=1)] = 0.25,
        max_detections: Annotated[int, Form(ge=1, le=1000)] = 100,
    ) -> Detection:
        names = checked_labels(labels, settings)
        async with holder.use() as served:
            if not served.boxes:
                raise HTTPException(404, "this model has no box head; serve one that has")
            selection = Selection(min_score=min_score, max_detections=max_detections)
            found, (width, height) = await served.detect(
                await uploaded(image, settings), names, selection
            )
        return Detection(
            objects=[
                DetectedObject(label=names[number], score=score, box=box)
                for number, score, box in zip(
                    found.classes.tolist(),
                    found.scores.tolist(),
                    found.boxes.tolist(),
                    strict=True,
                )
            ],
            width=width,
            height=height,
        )

    @app.post("/heatmap", summary="Where in an image a text fits best")
    async def heatmap(image: Upload, text: Annotated[str, Form()]) -> Heatmap:
        (label,) = checked_texts([text], settings)
        async with holder.use() as served:
            values = await served.heatmap(await uploaded(image, settings), label)
        png = await asyncio.to_thread(heatmap_png, values)
        return Heatmap(png=png, low=float(values.min()), high=float(values.max()))


async def uploaded(upload: UploadFile, settings: Settings) -> Image.Image:
    """The image of an upload, whose header has been read.

    Raises:
        DataError: It is none, or too large.
    """
    return await asyncio.to_thread(read_upload, await upload.read(), settings.max_pixels)


def checked_labels(fields: list[str], settings: Settings) -> list[str]:
    """Labels of a form.

    Raises:
        HTTPException: Too many, too long.
        ConfigError: None, or one that is given twice or is no text.
    """
    joined = fields[0] if len(fields) == 1 else None
    if joined is not None:
        if joined.count(",") >= settings.max_labels:
            raise HTTPException(413, f"more than {settings.max_labels} labels; send fewer")
        labels = given_labels(joined, None, option="labels")
    else:
        labels = [" ".join(field.split()) for field in fields]
    return checked_texts(labels, settings)


def checked_templates(
    fields: list[str] | None, num_labels: int, settings: Settings
) -> tuple[str, ...] | None:
    """Templates of a form, or those of the set that it names; None without.

    Raises:
        HTTPException: They are too long or too many, or one is none.
        ConfigError: The set is unknown, or a template has no `{}`.
    """
    if not fields:
        return None
    checked_texts(fields, settings)
    for field in fields:
        if "{" in field.replace("{}", "", 1):  # a width in it could fill the memory
            raise HTTPException(
                400, f"template {field!r}: give one {{}} for the label, no other {{"
            )
    named = len(fields) == 1 and "{" not in fields[0]
    prompts = as_templates(fields[0] if named else fields)
    if num_labels * len(prompts) > settings.max_prompts:
        raise HTTPException(
            413,
            f"{num_labels} labels in {len(prompts)} templates are more than "
            f"{settings.max_prompts} prompts; send fewer",
        )
    return prompts


def checked_texts(texts: list[str], settings: Settings) -> list[str]:
    """Texts within the limits.

    Raises:
        HTTPException: They are too many, too long or empty.
        ConfigError: One is no text.
    """
    if len(texts) > settings.max_labels:
        raise HTTPException(413, f"more than {settings.max_labels} labels or texts; send fewer")
    for text in texts:
        if not text.strip():
            raise HTTPException(400, "an empty label or text says nothing; leave it out")
        if len(text) > settings.max_text:
            raise HTTPException(413, f"a text of more than {settings.max_text} characters")
        require_text(text)
    return texts
