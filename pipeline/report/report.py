"""Stage `report`: a self-contained HTML page, and the MLflow run."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any, get_args

import jinja2
import yaml

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.source_params import SOURCES
from pipeline.config.teacher_params import TeacherParams
from pipeline.evaluation.shared.embeddings import load_student, read_arrays
from pipeline.evaluation.shared.reranking import gain_verdict, rerank_verdict
from pipeline.report.advice import warnings
from pipeline.report.figure_text import class_labels
from pipeline.report.figures import MAX_LABELLED, confusion_matrix, training_curves
from pipeline.report.gallery import Example, Gallery, Query, examples, queries
from pipeline.report.objects.drawing import MarkedImage, choose, marked_images, threshold_of
from pipeline.report.publish import publish_or_warn
from pipeline.report.results import (
    RERANK_METRICS,
    MetricValue,
    Results,
    format_gain,
    format_percent,
    format_score,
    format_speedup,
    is_certain,
)
from pipeline.storage.files import write_text, writing, writing_folder
from pipeline.tracking.target import TrackingTarget

logger = logging.getLogger(__name__)

TEACHERS = set(get_args(TeacherParams.model_fields["source"].annotation))


def report(params: Params, paths: Layout) -> None:
    """Writes `out/report/index.html` and its figures, then publishes the run to MLflow, and logs
    where to look.

    If MLflow cannot be written, the log has a warning and `kdeov publish` does it later.

    Raises:
        KdeovError: A result is missing, or `tracking.uri` is wrong.
    """
    TrackingTarget.of(params.tracking, paths)  # a wrong address fails before any work
    results = Results.read(params, paths)
    write_page(results, params, paths)
    publish_or_warn(params, paths)
    for line in warnings(results):
        logger.warning("%s", line)
    where = paths.report.relative_to(paths.root)
    logger.info("the report is %s; `kdeov summary` prints its tables, `kdeov ui` shows runs", where)


def write_page(results: Results, params: Params, paths: Layout) -> None:
    """Writes `out/report/index.html` and its figures.

    Raises:
        KdeovError: Student or test split are missing or damaged.
    """
    predictions = (
        read_arrays(paths.evaluation / "zero_shot" / "predictions.npz", results.run.fingerprint)
        if results.zero_shot
        else None
    )
    gallery = Gallery(params, paths)
    figures = {"training_curves": training_curves(results.history)}
    classes: list[str] = []
    if predictions is not None:
        classes = predictions["names"].tolist()
        figures["confusion_matrix"] = confusion_matrix(
            predictions["labels"], predictions["student"], classes
        )
    count = params.report.examples
    heat_maps = examples(count, predictions, gallery, load_student(params, paths))
    figures |= {f"heat_map_{n}": example.heat for n, example in enumerate(heat_maps)}
    captions: list[Query] = []
    if results.retrieval:
        hits = read_arrays(paths.evaluation / "retrieval" / "hits.npz", results.run.fingerprint)
        captions = queries(max(2, count // 2), hits, gallery)
    marked: list[MarkedImage] = []
    if results.detection is not None:
        found = read_arrays(paths.evaluation / "detection" / "found.npz", results.run.fingerprint)
        numbers = choose(found, count, threshold_of(found))
        gallery.load(numbers)
        marked = marked_images(found, numbers, gallery.whole)
    page = _page(results, figures, heat_maps, captions, classes, marked)
    with writing_folder(paths.report.parent) as folder:
        write_text(folder / paths.report.name, page)
        for name, png in figures.items():
            with writing(folder / "figures" / f"{name}.png") as file:
                file.write(png)


def _page(
    results: Results,
    figures: dict[str, bytes],
    heat_maps: list[Example],
    captions: list[Query],
    classes: list[str],
    marked: list[MarkedImage],
) -> str:
    labels = class_labels(classes) if len(classes) <= MAX_LABELLED else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "score": format_score,
        "gain": format_gain,
        "png": _inline,
        "jpeg": _inline_jpeg,
    }
    return environment.get_template("report.html.j2").render(
        run=results.run,
        dataset=results.dataset,
        classes=results.zero_shot.get("classes", 0),
        held_out=results.zero_shot.get("held_out_classes", 0),
        retrieval=results.retrieval,
        warnings=warnings(results),
        cards=_cards(results),
        columns=results.columns,
        table=results.table(),
        remarks=results.remarks(),
        ceilings=results.ceilings(),
        protocols=results.protocols(),
        reranked=_reranked(results),
        rerank_count=results.reranked.get("count"),
        rerank_verdict=rerank_verdict(results.reranked.get("verdict", "")),
        efficiency=_towers(results),
        threads=results.efficiency["threads"],
        file_bytes=results.efficiency["student"]["file_bytes"],
        deployed=results.deployed,
        curves=figures["training_curves"],
        confusion=figures.get("confusion_matrix"),
        relabelled=[
            (label, name)
            for label, name in zip(labels, classes, strict=False)
            if label.split() != name.split()
        ],
        examples=heat_maps,
        queries=captions,
        detection=results.detection,
        marked=marked,
        params=yaml.safe_dump(used_params(results.run.params), sort_keys=False, allow_unicode=True),
    )


def used_params(params: dict[str, Any]) -> dict[str, Any]:
    """The params of a run in the order of the schema, without the parts of `prepare` and `teacher`
    that belong to another source.
    """
    used = {}
    for name in (name for name in Params.model_fields if name in params):
        kind, section = Params.model_fields[name].annotation, dict(params[name])
        order = [key for key in getattr(kind, "model_fields", section) if key in section]
        parts = {"prepare": set(SOURCES), "teacher": TEACHERS}.get(name, set())
        used[name] = {key: section[key] for key in order if key not in parts}
        if parts and (part := section["source"]) in section:
            used[name][part] = section[part]
    return used


def _reranked(results: Results) -> list[dict[str, Any]]:
    scores = results.reranked
    rows = []
    for key, label in RERANK_METRICS.items():
        if (change := MetricValue.of(scores, f"gain_{key}")) is not None:
            before = MetricValue.of(results.retrieval["student"], key)
            verdict = gain_verdict(change.bounds) if change.bounds else ""
            rows.append(
                {
                    "label": label,
                    "before": before,
                    "after": MetricValue.of(scores, key),
                    "gain": change,
                    "verdict": verdict,
                }
            )
    return rows


def _towers(results: Results) -> list[dict[str, Any]]:
    """Rows of the table of size and speed: each model at its own resolution, then the student
    against the reference.
    """
    student, teacher = results.efficiency["student"], results.efficiency["teacher"]
    reference = results.efficiency["reference"]
    again = student | {
        "image_size": reference["image_size"],
        "macs": reference["student_macs"],
        "latency_ms": reference["student_latency_ms"],
        "batch_latency_ms_per_image": None,
    }
    towers = [_tower("student", student)]
    if teacher is not None:
        towers.append(_tower(f"teacher, {results.run.teacher}", teacher))
    return [
        *towers,
        _tower("student", again),
        _tower(reference["name"], reference | {"batch_latency_ms_per_image": None}),
    ]


def _tower(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "size": row["image_size"],
        "macs": row["macs"],
        "parameters": row["parameters"],
        "latency": row["latency_ms"],
        "batch": row["batch_latency_ms_per_image"],
    }


def _cards(results: Results) -> list[dict[str, str]]:
    cards = []
    for scores, key, label in (
        (results.zero_shot, "top1", "zero-shot top-1"),
        (results.retrieval, "i2t_r5", "image to text R@5"),
        (results.retrieval, "t2i_r5", "text to image R@5"),
    ):
        own = MetricValue.of(scores.get("student"), key)
        if own is None or is_certain(key, scores):
            continue
        value, _, bounds = format_score(own).partition(" ")
        teacher, share = (
            MetricValue.of(scores.get(column), key) for column in ("teacher", "retained")
        )
        ceiling = results.ceilings().get(key) if scores is results.retrieval else None
        notes = [f"ceiling {ceiling:.3f}"] if ceiling else []
        notes += [f"teacher {teacher.value:.3f}"] if teacher else []
        notes += [f"retained {format_percent(share)}"] if share else []
        cards.append({"value": value, "bounds": bounds, "label": label, "note": ", ".join(notes)})
    if results.detection is not None and (card := results.detection.card()):
        cards.append(card)
    reference = results.efficiency["reference"]
    millions = results.efficiency["student"]["parameters"] / 1e6
    ratio, direction = format_speedup(reference["speedup"]).replace("x", "×", 1).split()
    speed = f"one image of {reference['image_size']} px on this CPU"
    for value, label, note in (
        (f"{millions:.2f} M", "parameters", "in the image tower"),
        (ratio, f"{direction} than {reference['name']}", speed),
    ):
        cards.append({"value": value, "bounds": "", "label": label, "note": note})
    return cards


def _inline_jpeg(data: bytes) -> str:
    return _inline(data, "jpeg")


def _inline(data: bytes, kind: str = "png") -> str:
    """A `data:` URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
