"""The routes of the index: search, and thumbnails of its images."""

from __future__ import annotations

import asyncio
from typing import Annotated

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, UploadFile
from fastapi.responses import Response
from PIL import Image

from kdeov.data.images import to_rgb
from kdeov.errors import DataError
from kdeov.runtime.images import read_image
from pipeline.search.index import Hit, Index
from pipeline.search.query import query_embedding
from pipeline.search.where import Where
from pipeline.serve.holder import ModelHolder
from pipeline.serve.routes.answers import Hits, ServedHit
from pipeline.serve.routes.images import thumbnail
from pipeline.serve.routes.model import checked_texts, uploaded
from pipeline.serve.served import ServedModel
from pipeline.serve.served_index import ServedIndex
from pipeline.serve.settings import Settings

MAX_HITS = 1000
NO_INDEX = "this server has no index; start it with --index"


def add_search_routes(
    app: FastAPI, holder: ModelHolder, index: ServedIndex | None, settings: Settings
) -> None:
    """Adds `/search` and `/images`, which answer 404 without an index."""

    @app.post("/search", summary="Find images of the index by texts and an image")
    async def search(
        text: Annotated[list[str] | None, Form(description="What they show.")] = None,
        minus: Annotated[list[str] | None, Form(description="What they do not show.")] = None,
        image: Annotated[UploadFile | None, File(description="What they are like.")] = None,
        where: Annotated[
            list[str] | None, Form(description="Filters, as `folder=2024/alps`.")
        ] = None,
        k: Annotated[int, Form(ge=1, le=MAX_HITS)] = 20,
        probability: Annotated[float | None, Form(ge=0, le=1)] = None,
        objects: Annotated[bool, Form(description="Whether regions are searched.")] = False,
    ) -> Hits:
        if index is None:
            raise HTTPException(404, NO_INDEX)
        if not text and image is None:
            raise HTTPException(400, "nothing is looked for; give a text or an image")
        filters = Where.parse(where or [])
        async with holder.use() as served:
            query = await _query(served, text or [], minus or [], image, settings)
            background = served.background
            found = await asyncio.to_thread(
                index.current().search, query, k, filters, background, probability, objects
            )
        return Hits(hits=[_hit(hit) for hit in found])

    @app.get("/images/{row}", summary="A thumbnail of an image of the index")
    async def indexed_image(row: int) -> Response:
        if index is None:
            raise HTTPException(404, NO_INDEX)
        content = await asyncio.to_thread(_thumbnail, index.current(), row)
        if content is None:
            raise HTTPException(404, f"row {row} of the index has no image that can be read")
        headers = {"cache-control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)


async def _query(
    served: ServedModel,
    text: list[str],
    minus: list[str],
    image: UploadFile | None,
    settings: Settings,
) -> np.ndarray:
    wanted: list[np.ndarray] = []
    if text:
        wanted += list(await served.texts(checked_texts(text, settings)))
    if image is not None:
        wanted.append(await served.embed(await uploaded(image, settings)))
    less = await served.texts(checked_texts(minus, settings)) if minus else None
    return query_embedding(np.stack(wanted), less)


def _hit(hit: Hit) -> ServedHit:
    return ServedHit(
        path=hit.path,
        score=hit.score,
        probability=hit.probability,
        date=hit.date,
        box=list(hit.box) if hit.box is not None else None,
        image=f"images/{hit.row}",
    )


def _thumbnail(index: Index, row: int) -> bytes | None:
    if not 0 <= row < len(index) or (path := index.image_file(row)) is None:
        return None
    try:
        opened: Image.Image = to_rgb(read_image(path))
    except DataError:
        return None
    return thumbnail(opened)
