"""Stage `report`: one page that needs nothing but itself, and the same in MLflow."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from PIL import Image

from kdeov.model import KDEOVModel
from pipeline.cache import open_cache
from pipeline.evaluation import load_student, read_arrays
from pipeline.figures import (
    confusion_matrix,
    heat_overlay,
    picture_jpeg,
    picture_png,
    training_curves,
)
from pipeline.files import write_text, writing, writing_folder
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.publish import publish_or_warn
from pipeline.results import Results

SIDE = 160  # pixels of the pictures on the page
THUMBNAIL = 96


def report(params: Params, layout: Layout) -> None:
    """Writes `out/report/index.html` and its figures, then publishes the run to MLflow.

    Raises:
        KdeovError: A result is missing.
    """
    results = Results.read(layout)
    arrays = layout.evaluation
    hits = read_arrays(arrays / "retrieval" / "hits.npz")
    predictions = (
        read_arrays(arrays / "zero_shot" / "predictions.npz") if results.zero_shot else None
    )
    gallery = _Gallery(params, layout)
    figures = {"training_curves": training_curves(results.history)}
    if predictions is not None:
        figures["confusion_matrix"] = confusion_matrix(
            predictions["labels"], predictions["student"], results.dataset.classes
        )
    examples = _examples(params, results, predictions, gallery, load_student(params, layout))
    figures |= {f"heat_map_{n}": e["heat"] for n, e in enumerate(examples)}
    page = _page(results, figures, examples, _queries(params, hits, gallery))
    with writing_folder(layout.report.parent) as folder:
        write_text(folder / layout.report.name, page)
        for name, png in figures.items():
            with writing(folder / "figures" / f"{name}.png") as file:
                file.write(png)
    publish_or_warn(params, layout)


class _Gallery:
    """Pictures, all captions, and each picture's first caption, of the test split."""

    def __init__(self, params: Params, layout: Layout) -> None:
        self.captions: list[str] = []
        self.first_captions: list[str] = []
        self._jpegs: list[bytes] = []
        for sample in open_cache(params.embed, layout, "test"):
            self.captions += sample.captions
            self.first_captions.append(sample.captions[0])
            self._jpegs.append(sample.jpeg)

    def __getitem__(self, number: int) -> Image.Image:
        """The centred square that both models see."""
        picture = Image.open(io.BytesIO(self._jpegs[number])).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        return picture.crop((left, top, left + side, top + side))

    def __len__(self) -> int:
        return len(self._jpegs)


def _examples(
    params: Params,
    results: Results,
    predictions: dict[str, np.ndarray] | None,
    gallery: _Gallery,
    model: KDEOVModel,
) -> list[dict[str, Any]]:
    """Pictures with the heat map of their class or caption: half of them right, half wrong where
    there are such.
    """
    count = min(params.report.examples, len(gallery))
    numbers: list[int]
    if predictions is None:
        numbers = [int(n) for n in np.linspace(0, len(gallery) - 1, count)]
    else:
        right = np.flatnonzero(predictions["student"] == predictions["labels"])
        wrong = np.flatnonzero(predictions["student"] != predictions["labels"])
        numbers = _spread(wrong, min(len(wrong), count // 2))
        numbers = _spread(right, min(len(right), count - len(numbers))) + numbers
    examples = []
    for number in numbers:
        picture = gallery[number]
        example: dict[str, Any] = {}
        if predictions is None:
            example["text"] = gallery.first_captions[number]
        else:
            classes = results.dataset.classes
            example["text"] = classes[predictions["labels"][number]]
            example |= {who: classes[predictions[who][number]] for who in ("teacher", "student")}
        heat = model.heatmap(picture, [example["text"]])[0, 0].cpu().numpy()
        example["picture"] = picture_png(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        example["heat"] = heat_overlay(picture, heat, SIDE)
        examples.append(example)
    return examples


def _queries(
    params: Params, hits: dict[str, np.ndarray], gallery: _Gallery
) -> list[dict[str, Any]]:
    """Captions with their first hits: half found at the first place, half not among the shown."""
    own, found = hits["image_of_text"], hits["hits"]
    first = np.flatnonzero(found[:, 0] == own)
    missed = np.flatnonzero((found != own[:, None]).all(axis=1))
    count = max(2, params.report.examples // 2)
    texts = _spread(first, min(len(first), count)) + _spread(missed, min(len(missed), count))
    return [
        {
            "caption": gallery.captions[t],
            "hit": bool(found[t, 0] == own[t]),
            "hits": [
                {"picture": picture_jpeg(gallery[int(n)], THUMBNAIL), "right": bool(n == own[t])}
                for n in found[t]
            ],
        }
        for t in texts
    ]


def _spread(numbers: np.ndarray, count: int) -> list[int]:
    return (
        [int(numbers[i]) for i in np.linspace(0, len(numbers) - 1, count).astype(int)]
        if count
        else []
    )


def _page(
    results: Results,
    figures: dict[str, bytes],
    examples: list[dict[str, Any]],
    queries: list[dict[str, Any]],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    reranked = results.retrieval.get("reranked", {})
    rows = [
        {
            "label": f"R@{k}",
            "before": results.retrieval["student"][f"t2i_r{k}"],
            "after": reranked[f"t2i_r{k}"],
            "gain": reranked[f"gain_t2i_r{k}"],
        }
        for k in (1, 5, 10)
        if reranked
    ]
    efficiency = results.efficiency
    reference = efficiency["reference"]
    size = reference["image_size"]
    towers = [
        _tower("student", efficiency["student"]),
        _tower(f"teacher, {results.run.teacher}", efficiency["teacher"]),
        _tower(
            "student",
            efficiency["student"]
            | {"image_size": size, "macs": reference["student_macs"]}
            | {"latency_ms": reference["student_latency_ms"], "batch_latency_ms_per_image": None},
        ),
        _tower(reference["name"], reference | {"batch_latency_ms_per_image": None}),
    ]
    return environment.get_template("report.html.j2").render(
        run=results.run,
        dataset=results.dataset,
        cards=_cards(results),
        comparison=results.comparison(),
        protocols=[s["protocol"] for s in (results.zero_shot, results.retrieval) if s],
        reranked=rows,
        rerank_count=reranked.get("count"),
        rerank_verdict=_verdict([row["gain"] for row in rows]),
        efficiency=towers,
        threads=efficiency["threads"],
        file_bytes=efficiency["student"]["file_bytes"],
        curves=_inline(figures["training_curves"]),
        confusion=_inline(figures["confusion_matrix"]) if "confusion_matrix" in figures else None,
        examples=[
            {
                "teacher": None,
                "student": None,
                **e,
                "picture": _inline(e["picture"]),
                "heat": _inline(e["heat"]),
            }
            for e in examples
        ],
        queries=[
            {**q, "hits": [{**h, "picture": _inline(h["picture"], "jpeg")} for h in q["hits"]]}
            for q in queries
        ],
        params=yaml.safe_dump(results.run.params, sort_keys=False),
        number=lambda value: (
            f"{value:.3f}" if isinstance(value, float) and value < 1.5 else f"{value:,.0f}"
        ),
        percent=lambda value: "" if value is None else f"{100 * value:.1f}%",
    )


def _tower(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "size": row["image_size"],
        "macs": row["macs"],
        "parameters": row["parameters"],
        "latency": row["latency_ms"],
        "batch": row["batch_latency_ms_per_image"],
    }


def _verdict(gains: list[float]) -> str:
    if any(gain > 0 for gain in gains):
        return "It helps." if min(gains) >= 0 else "It helps at one depth and hurts at another."
    return "It does not help here."


def _cards(results: Results) -> list[dict[str, str]]:
    cards = []
    for scores, key, label in (
        (results.zero_shot, "top1", "zero-shot top-1"),
        (results.retrieval, "i2t_r5", "picture to text R@5"),
        (results.retrieval, "t2i_r5", "text to picture R@5"),
    ):
        if scores:
            share = scores["retained"][key]
            note = f"teacher {scores['teacher'][key]:.3f}"
            note += "" if share is None else f", {100 * share:.0f}% retained"
            cards.append({"value": f"{scores['student'][key]:.3f}", "label": label, "note": note})
    reference = results.efficiency["reference"]
    millions = results.efficiency["student"]["parameters"] / 1e6
    cards.append(
        {"value": f"{millions:.2f} M", "label": "parameters", "note": "of the picture tower"}
    )
    cards.append(
        {
            "value": f"{reference['speedup']:.1f}×",
            "label": "faster than ViT-B/32",
            "note": f"one picture of {reference['image_size']} px, this CPU",
        }
    )
    return cards


def _inline(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
