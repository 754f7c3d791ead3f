"""Accuracy over multiply-accumulates and over latency, of the student's forms and the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.charts.svg import GRAY, STUDENT, TEACHER, chart
from pipeline.report.deployed import SHORT
from pipeline.report.results import METRIC_LABELS, MetricValue, Results

ACCURACIES = (("zero_shot", "top1"), ("retrieval", "t2i_r5"))
"""The first of them that a run has is the accuracy of the charts."""


MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class _Point:
    """A model in a chart.

    Attributes:
        label: Its name.
        color: Of the mark.
        cost: MACs in millions, or milliseconds.
        accuracy: With its interval.
    """

    label: str
    color: str
    cost: float
    accuracy: MetricValue


def efficiency_charts(results: Results) -> list[Markup]:
    """Accuracy over MACs and accuracy over latency on one thread; none without an accuracy.

    The reference is a vertical line: its accuracy is not measured.

    Args:
        results: The results of a run.
    """
    task, key = next(((t, k) for t, k in ACCURACIES if t in results.evaluations), ("", ""))
    if not task:
        return []
    scores, efficiency = results.evaluations[task], results.efficiency
    student, teacher = (MetricValue.of(scores.get(name), key) for name in ("student", "teacher"))
    if student is None:
        return []
    macs = [_Point("student", STUDENT, efficiency["student"]["macs"] / 1e6, student)]
    times = [_Point("student", STUDENT, efficiency["student"]["latency_ms"], student)]
    if results.deployed is not None:
        times = _forms(results, task, key, student)
    if teacher is not None and efficiency["teacher"] is not None:
        tower = efficiency["teacher"]
        macs.append(_Point("teacher", TEACHER, tower["macs"] / 1e6, teacher))
        times.append(_Point("teacher", TEACHER, tower["latency_ms"], teacher))
    label, reference = METRIC_LABELS[task][key], efficiency["reference"]
    return [
        _scatter(
            "macs", "multiply-accumulates of one image, millions", label, macs,
            (reference["name"], reference["macs"] / 1e6),
        ),
        _scatter(
            "latency", "latency of one image, ms on one thread", label, times,
            (reference["name"], reference["latency_ms"]),
        ),
    ]  # fmt: skip


def _forms(results: Results, task: str, key: str, accuracy: MetricValue) -> list[_Point]:
    """The student's deployed forms; the accuracy of INT8 is its own, that of ONNX the student's,
    from which its embeddings do not differ.
    """
    if results.deployed is None:
        return []
    int8 = results.efficiency["deployed"]["int8_cost"] or {}
    own = {"int8": MetricValue.of(int8.get(task), key)}
    return [
        _Point(f"student, {SHORT[form.form]}", STUDENT, form.latencies[0], found)
        for form in results.deployed.forms
        if (found := own.get(form.form, accuracy)) is not None
    ]


def _scatter(
    name: str, cost: str, accuracy: str, points: list[_Point], line: tuple[str, float]
) -> Markup:
    words = ", ".join(f"{p.label} {p.accuracy.value:.3f} at {p.cost:,.2f}" for p in points)
    with chart(name, f"{accuracy} over {cost}: {words}", height=3) as drawn:
        axes = drawn.axes
        axes.set_xscale("log")
        for number, point in enumerate(sorted(points, key=lambda p: p.cost)):
            value = point.accuracy.value
            low, high = point.accuracy.bounds or (value, value)
            axes.errorbar(
                [point.cost], [value], [[max(0, value - low)], [max(0, high - value)]],
                color=point.color, capsize=2.5, marker=MARKERS[number % len(MARKERS)],
                markersize=6, linestyle="none", label=f"{point.label}, {point.cost:,.3g}",
            )  # fmt: skip
        axes.axvline(line[1], color=GRAY, linestyle=":")
        axes.annotate(
            line[0], (line[1], 0), (-3, 5), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=GRAY, rotation=90, ha="right", va="bottom",
        )  # fmt: skip
        costs = [point.cost for point in points] + [line[1]]
        axes.set_xlim(min(costs) / 3, max(costs) * 2)
        axes.margins(y=0.25)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(cost)
        axes.set_title(accuracy)
        # below the axes: names of points would meet where forms are equally fast
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, columnspacing=1)
    return drawn.svg
