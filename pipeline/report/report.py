"""Stage `report`: one page that needs nothing but itself, and the same in MLflow."""

from __future__ import annotations

import base64
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
from pipeline.report.figures import confusion_matrix, training_curves
from pipeline.report.gallery import Gallery, examples, queries
from pipeline.report.publish import publish_or_warn
from pipeline.report.results import RERANKED, Results, Value, gain, pace, percent, score
from pipeline.storage.files import write_text, writing, writing_folder

TEACHERS = set(get_args(TeacherParams.model_fields["source"].annotation))


def report(params: Params, layout: Layout) -> None:
    """Writes `out/report/index.html` and its figures, then publishes the run to MLflow.

    Raises:
        KdeovError: A result is missing.
    """
    results = Results.read(params, layout)
    predictions = (
        read_arrays(layout.evaluation / "zero_shot" / "predictions.npz")
        if results.zero_shot
        else None
    )
    gallery = Gallery(params, layout)
    figures = {"training_curves": training_curves(results.history)}
    if predictions is not None:
        figures["confusion_matrix"] = confusion_matrix(
            predictions["labels"], predictions["student"], predictions["names"].tolist()
        )
    count = params.report.examples
    seen = examples(count, predictions, gallery, load_student(params, layout))
    figures |= {f"heat_map_{n}": example["heat"] for n, example in enumerate(seen)}
    found = []
    if results.retrieval:
        hits = read_arrays(layout.evaluation / "retrieval" / "hits.npz")
        found = queries(max(2, count // 2), hits, gallery)
    page = _page(results, figures, seen, found)
    with writing_folder(layout.report.parent) as folder:
        write_text(folder / layout.report.name, page)
        for name, png in figures.items():
            with writing(folder / "figures" / f"{name}.png") as file:
                file.write(png)
    publish_or_warn(params, layout)


def _page(
    results: Results,
    figures: dict[str, bytes],
    seen: list[dict[str, Any]],
    found: list[dict[str, Any]],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"score": score, "gain": gain}
    return environment.get_template("report.html.j2").render(
        run=results.run,
        dataset=results.dataset,
        classes=results.zero_shot.get("classes", 0),
        held_out=results.zero_shot.get("held_out_classes", 0),
        retrieval=results.retrieval,
        cards=_cards(results),
        columns=results.columns,
        table=results.table(),
        remarks=results.remarks(),
        protocols=results.protocols(),
        reranked=_reranked(results),
        rerank_count=results.reranked.get("count"),
        rerank_verdict=rerank_verdict(results.reranked.get("verdict", "")),
        efficiency=_towers(results),
        threads=results.efficiency["threads"],
        file_bytes=results.efficiency["student"]["file_bytes"],
        curves=_inline(figures["training_curves"]),
        confusion=_inline(figures["confusion_matrix"]) if "confusion_matrix" in figures else None,
        examples=[
            {"said": {}, **e, "image": _inline(e["image"]), "heat": _inline(e["heat"])}
            for e in seen
        ],
        queries=[
            {**q, "hits": [{**h, "image": _inline(h["image"], "jpeg")} for h in q["hits"]]}
            for q in found
        ],
        params=yaml.safe_dump(used_params(results.run.params), sort_keys=False),
    )


def used_params(params: dict[str, Any]) -> dict[str, Any]:
    """The params of a run in the order of the schema, without sections of other sources and parts
    of other kinds of teachers.
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
    for key, label in RERANKED.items():
        if (change := Value.of(scores, f"gain_{key}")) is not None:
            before = Value.of(results.retrieval["student"], key)
            verdict = gain_verdict(change.bounds) if change.bounds else ""
            rows.append(
                {
                    "label": label,
                    "before": before,
                    "after": Value.of(scores, key),
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
        if (own := Value.of(scores.get("student"), key)) is None:
            continue
        value, _, bounds = score(own).partition(" ")
        teacher, share = (Value.of(scores.get(who), key) for who in ("teacher", "retained"))
        notes = [f"teacher {teacher.value:.3f}"] if teacher else []
        notes += [f"retained {percent(share)}"] if share else []
        cards.append({"value": value, "bounds": bounds, "label": label, "note": ", ".join(notes)})
    reference = results.efficiency["reference"]
    millions = results.efficiency["student"]["parameters"] / 1e6
    times, way = pace(reference["speedup"]).replace("x", "×", 1).split()
    speed = f"one image of {reference['image_size']} px, this CPU"
    for value, label, note in (
        (f"{millions:.2f} M", "parameters", "of the image tower"),
        (times, f"{way} than {reference['name']}", speed),
    ):
        cards.append({"value": value, "bounds": "", "label": label, "note": note})
    return cards


def _inline(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
