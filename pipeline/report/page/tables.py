"""Rows of the report's tables, as text."""

from __future__ import annotations

from typing import Any, get_args

from pipeline.config.params import Params
from pipeline.config.source_params import SOURCES
from pipeline.config.teacher_params import TeacherParams
from pipeline.evaluation.shared.reranking import gain_verdict
from pipeline.report.facts.data import DataFacts
from pipeline.report.results import (
    RERANK_METRICS,
    MetricValue,
    Results,
    format_gain,
    format_score,
)

TEACHERS = set(get_args(TeacherParams.model_fields["source"].annotation))


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


def reranked_rows(results: Results) -> list[list[str]]:
    """Recalls before and after re-ranking, gains and verdicts."""
    scores = results.reranked
    return [
        [
            label,
            format_score(MetricValue.of(results.retrieval["student"], key)),
            format_score(MetricValue.of(scores, key)),
            format_gain(change),
            gain_verdict(change.bounds) if change.bounds else "",
        ]
        for key, label in RERANK_METRICS.items()
        if (change := MetricValue.of(scores, f"gain_{key}")) is not None
    ]


def tower_rows(results: Results) -> list[list[str]]:
    """Size and speed: each model at its own resolution, then the student against the reference."""
    student, teacher = results.efficiency["student"], results.efficiency["teacher"]
    reference = results.efficiency["reference"]
    again = student | {
        "image_size": reference["image_size"],
        "macs": reference["student_macs"],
        "latency_ms": reference["student_latency_ms"],
        "batch_latency_ms_per_image": None,
    }
    towers = [("student", student)]
    if teacher is not None:
        towers.append((f"teacher, {results.run.teacher}", teacher))
    towers += [
        ("student", again),
        (reference["name"], reference | {"batch_latency_ms_per_image": None}),
    ]
    return [
        [
            name,
            f"{row['image_size']} px",
            f"{row['parameters'] / 1e6:,.2f} M",
            f"{row['macs'] / 1e6:,.1f} M",
            f"{row['latency_ms']:.1f} ms",
            f"{batch:.1f} ms" if (batch := row["batch_latency_ms_per_image"]) else "",
        ]
        for name, row in towers
    ]


def form_rows(results: Results) -> list[list[str]]:
    """The deployed forms: size of the file, and latencies."""
    if results.deployed is None:
        return []
    return [
        [form.label, f"{form.megabytes:,.1f} MB", *(f"{ms:.2f} ms" for ms in form.latencies)]
        for form in results.deployed.forms
    ]


def split_rows(data: DataFacts) -> list[list[str]]:
    """Images, rejected inputs and shards by split."""
    return [
        [
            split.name,
            f"{split.images:,}",
            f"{split.rejected:,}",
            f"{split.shards:,}",
            f"{split.megabytes:,.1f} MB",
        ]
        for split in data.splits
    ]


def rejection_rows(data: DataFacts) -> list[list[str]]:
    """Reasons of rejected inputs, with an example each."""
    return [[found.reason, f"{found.count:,}", found.example] for found in data.rejections]


def duplicate_rows(results: Results) -> list[list[str]]:
    """Near duplicates across splits, with examples."""
    return [
        [splits, f"{near['images']:,}", "; ".join(" as ".join(names) for names in near["examples"])]
        for splits, near in results.dataset.near_duplicates.items()
    ]
