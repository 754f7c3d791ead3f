"""The quality of a version in the registry: the student's metrics with their intervals, and what
they were measured on, so that two versions are compared without their checkouts.
"""

from __future__ import annotations

from typing import Any

from pipeline.report.objects.scores import PRECISION_ROWS
from pipeline.report.registry.comparison import Score
from pipeline.report.results import METRIC_LABELS, MLFLOW_GROUPS, Results, is_certain


def scores_of(results: Results) -> dict[str, Score]:
    """The metrics of a student that have an interval, under the names that MLflow has."""
    found: dict[str, Score] = {}
    for name, scores in results.evaluations.items():
        for key in METRIC_LABELS[name]:
            if not is_certain(key, scores):
                _add(
                    found, f"{MLFLOW_GROUPS.get(name, name)}/{key}", scores["student"], key, scores
                )
    if results.detection is not None:
        scores = results.detection.values
        for classes in results.detection.groups:
            for key in PRECISION_ROWS:
                _add(found, f"detection/{classes}_{key}", scores[classes], key, scores)
    return found


def _add(
    found: dict[str, Score], name: str, values: dict[str, Any], key: str, scores: dict[str, Any]
) -> None:
    bounds = values.get("interval", {}).get(key)
    if values.get(key) is not None and bounds is not None:
        low, high = bounds
        found[name] = Score(float(values[key]), low, high, measured_on(scores["protocol"]))


def measured_on(protocol: str) -> str:
    """A protocol without the student's image transform, which is the last part but one: students of
    any size are compared on one test.
    """
    task, _, samples = protocol.rsplit("/", 2)
    return f"{task}/{samples}"
