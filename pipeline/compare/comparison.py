"""Two runs compared: params that differ, metrics with paired intervals, curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeov.evaluation.bootstrap import Statistic, distributions, interval
from pipeline.compare.contents import Evaluated, RunContents
from pipeline.compare.evaluations import test_of
from pipeline.evaluation.shared.metric_labels import METRIC_LABELS, TASKS

BOOTSTRAP_SAMPLES = 1000
MISSING = "—"
NOT_PAIRED = "not paired"
CURVES = ("train_total", "val_loss", "val_cosine")
"""Columns of `history.csv` that are drawn, where a run has them; loss and quality of validation."""
DETECTION = {
    "base": "base classes",
    "held_out": "held-out classes",
    "all": "all classes",
}
PLACES = ("tracking", "cluster", "data")  # sections that say only where a run runs


@dataclass(frozen=True)
class ParamRow:
    """A param that differs, with the values of both runs as texts."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class MetricRow:
    """A metric of both runs.

    Attributes:
        label: Name of the metric.
        before: Value of the first run; None where it has none.
        after: Value of the second run.
        bounds: 95% interval of the difference, paired over the test images; None without.
        word: Why there is no interval; None where there is one.
        is_rank: Whether less is better.
    """

    label: str
    before: float | None
    after: float | None
    bounds: tuple[float, float] | None = None
    word: str | None = None
    is_rank: bool = False

    @property
    def difference(self) -> float | None:
        """Second value minus the first; None where one is missing."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def verdict(self) -> str | None:
        """`better`, `worse` or `even` of the second run; None without an interval."""
        if self.bounds is None:
            return None
        low, high = self.bounds
        if low <= 0 <= high:
            return "even"
        return "better" if (low > 0) != self.is_rank else "worse"


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        before: Label of the first run.
        after: Label of the second run.
        params: Params that differ.
        metrics: Metrics of the student.
        curves: By column, the values of both runs.
        remarks: What counts for the whole, such as other data sets, and what to do.
    """

    before: str
    after: str
    params: list[ParamRow]
    metrics: list[MetricRow]
    curves: dict[str, tuple[list[float], list[float]]]
    remarks: list[str]


def compare(before: RunContents, after: RunContents) -> Comparison:
    """Compares two runs; differences are those of the second one."""
    metrics, remarks = [], []
    for name in [*TASKS, "detection"]:
        left, right = before.evaluations.get(name), after.evaluations.get(name)
        if left is None and right is None:
            continue
        rows, found = _metrics(name, before, after)
        metrics += rows
        remarks += found
    curves = {
        key: (before.curves.get(key, []), after.curves.get(key, []))
        for key in CURVES
        if key in before.curves or key in after.curves
    }
    labels = (before.label, after.label)
    return Comparison(
        *labels, list(_params(before, after)), metrics, curves, list(dict.fromkeys(remarks))
    )


def _params(before: RunContents, after: RunContents) -> Iterator[ParamRow]:
    """Params that differ. MLflow has texts, and only what the student follows from; of a path, it
    has the name alone, as no number follows from a folder.
    """
    sides = [before.params, after.params]
    names = dict.fromkeys((*sides[0], *sides[1]))
    as_text = before.in_mlflow or after.in_mlflow
    for name in names:
        if name.partition(".")[0] in PLACES:
            continue
        if as_text and not all(name in side for side in sides):
            continue
        left, right = (_shown(side, name) for side in sides)
        if as_text:
            differ = left != right and right != Path(left).name and left != Path(right).name
        else:
            differ = sides[0].get(name) != sides[1].get(name)
        if differ or any(name not in side for side in sides):
            yield ParamRow(name, left, right)


def _shown(side: dict[str, Any], name: str) -> str:
    return str(side[name]) if name in side else MISSING


def _metrics(
    name: str, before: RunContents, after: RunContents
) -> tuple[list[MetricRow], list[str]]:
    """The rows of an evaluation, and remarks."""
    none = Evaluated("", {})
    left, right = (run.evaluations.get(name, none) for run in (before, after))
    labels = _labels(name, left.scores, right.scores)
    remarks = [
        f"{run.label}: {side.problem}"
        for run, side in ((before, left), (after, right))
        if side.problem is not None
    ]
    word = _why_unpaired(left, right)
    if word == NOT_PAIRED and name == "detection":
        remarks.append("Average precision is no mean over images: its differences are not paired.")
    elif word == NOT_PAIRED:
        remarks += [
            _advice(run)
            for run, side in ((before, left), (after, right))
            if side.answers is None and side.scores
        ]
    bounds = {} if word else _bounds(left, right, labels)
    rows = []
    for key, label in labels.items():
        first, second = (_value(side.scores, key) for side in (left, right))
        if first is None and second is None:
            continue
        reason = "missing" if first is None or second is None else word
        if reason is None and key not in bounds:
            reason = "no interval"
        is_rank = key.endswith("rank")
        rows.append(MetricRow(label, first, second, bounds.get(key), reason, is_rank))
    return rows, remarks


def _why_unpaired(left: Evaluated, right: Evaluated) -> str | None:
    """The word for metrics that cannot be paired; None where they can be."""
    if not left.scores or not right.scores:
        return "missing"
    if left.dataset != right.dataset:
        return "other data set"
    if test_of(left.scores) != test_of(right.scores):
        return "other test"
    if left.answers is None or right.answers is None:
        return NOT_PAIRED
    return None if left.answers.size == right.answers.size else "other test"


def _advice(run: RunContents) -> str:
    fix = (
        "run `kdeov publish` in its checkout"
        if run.in_mlflow
        else "run `dvc fetch -A` or `dvc repro`"
    )
    return f"{run.label}: what it answered about each test image is not at hand; {fix}"


def _labels(name: str, *scores: dict[str, Any]) -> dict[str, str]:
    """Labels of the metrics that one of the runs has, by key."""
    if name != "detection":
        return {
            k: v
            for k, v in METRIC_LABELS[name].items()
            if any(_value(s, k) is not None for s in scores)
        }
    return {
        f"{group}.ap50": f"detection AP50, {text}"
        for group, text in DETECTION.items()
        if any(_value(s, f"{group}.ap50") is not None for s in scores)
    }


def _value(scores: dict[str, Any], key: str) -> float | None:
    """A metric of the student: of the group, for a dotted key."""
    group, dot, name = key.partition(".")
    values = scores.get(group if dot else "student") or {}
    value = values.get(name if dot else key)
    return float(value) if isinstance(value, int | float) else None


def _bounds(
    left: Evaluated, right: Evaluated, labels: dict[str, str]
) -> dict[str, tuple[float, float]]:
    """Intervals of the differences, from the same bootstrap samples of images."""
    first, second = left.answers, right.answers
    if first is None or second is None:
        return {}
    metrics: dict[str, Statistic] = {}
    for key in labels:
        if key in first.statistics and key in second.statistics:
            metrics[f"before/{key}"] = first.statistics[key]
            metrics[f"after/{key}"] = second.statistics[key]
    draws = distributions(metrics, first.size, BOOTSTRAP_SAMPLES)
    found = {}
    for key in labels:
        if f"before/{key}" in draws:
            bounds = interval(draws[f"after/{key}"] - draws[f"before/{key}"])
            if bounds is not None:
                found[key] = (bounds[0], bounds[1])
    return found
