"""The README's figure: retained accuracy against latency and size, drawn from `metrics/` alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdeov.errors import DataError
from pipeline.report.figure_text import plain_text
from pipeline.report.results import MetricValue
from pipeline.storage.checked import read_checked_json

# Mid-tones: contrast of 4.2 or more with white and with GitHub's dark background (#0d1117)
TEXT, STUDENT, TEACHER = "#72787f", "#0c8378", "#b86a00"
BYTES_PER_WEIGHT = 4
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "kdeov",
    "svg.fonttype": "none",
    "font.family": "sans-serif",  # of the reader's browser
    "font.size": 11,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


@dataclass(frozen=True)
class _Tower:
    """An image tower.

    Attributes:
        label: Name and input size.
        color: Of its marks and label.
        latency_ms: Latency of one image, in milliseconds.
        megabytes: Size of the float32 weights, in MB.
        top1: Zero-shot top-1 relative to the teacher's; None if it was not measured.
    """

    label: str
    color: str
    latency_ms: float
    megabytes: float
    top1: MetricValue | None = None


def results_figure(metrics: Path) -> bytes:
    """Zero-shot top-1 relative to the teacher against latency and against size, as SVG.

    Student and teacher are points at their own input sizes. ViT-B/32 and the student at the
    reference size are vertical lines: their accuracy is not measured. Equal metrics give equal
    bytes.

    Args:
        metrics: The folder with `zero_shot.json` and `efficiency.json`.

    Raises:
        DataError: A file is missing, or has no metrics of teacher and student.
    """
    points, lines = _towers(metrics)
    with plain_text(SETTINGS):
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        figure.patch.set_alpha(0)
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, points, lines, "latency_ms", "latency of one image on a CPU, ms (log scale)")
        sizes = [line for line in lines if line.megabytes != points[0].megabytes]
        _draw(right, points, sizes, "megabytes", "weights in float32, MB (log scale)")
        left.set_ylabel("zero-shot top-1,\n% of the teacher's")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()


def _towers(metrics: Path) -> tuple[list[_Tower], list[_Tower]]:
    """Student and teacher with their accuracy; the towers at the reference size without."""
    path = metrics / "zero_shot.json"
    scores: dict[str, Any] = next(iter(read_checked_json(path, "zero_shot").values()), {})
    efficiency = read_checked_json(metrics / "efficiency.json", "efficiency")
    top1 = MetricValue.of(scores.get("retained"), "top1")
    student, teacher, reference = (efficiency[k] for k in ("student", "teacher", "reference"))
    if top1 is None or teacher is None:
        raise DataError(f"{path}: no metrics of teacher and student; the figure compares them")
    megabytes = student["weight_bytes"] / 1e6
    points = [
        _Tower(
            f"student, {student['image_size']} px",
            STUDENT,
            student["latency_ms"],
            megabytes,
            top1,
        ),
        _Tower(
            f"teacher, {teacher['image_size']} px",
            TEACHER,
            teacher["latency_ms"],
            teacher["weight_bytes"] / 1e6,
            MetricValue(1.0, None),
        ),
    ]
    size = reference["image_size"]
    lines = [
        _Tower(f"student, {size} px", STUDENT, reference["student_latency_ms"], megabytes),
        _Tower(
            f"{reference['name']}, {size} px",
            TEXT,
            reference["latency_ms"],
            BYTES_PER_WEIGHT * reference["parameters"] / 1e6,
        ),
    ]
    return points, lines


def _draw(axes: Axes, points: list[_Tower], lines: list[_Tower], key: str, label: str) -> None:
    for tower in points:
        if tower.top1 is None:
            continue
        x, y = getattr(tower, key), 100 * tower.top1.value
        low, high = (100 * bound for bound in tower.top1.bounds or (tower.top1.value,) * 2)
        axes.errorbar([x], [y], [[y - low], [high - y]], color=tower.color, capsize=3)
        axes.plot([x], [y], marker="o", markersize=8, color=tower.color)
        axes.annotate(
            tower.label,
            (x, high),
            (0, 8),
            textcoords="offset points",
            color=tower.color,
            fontweight="bold",
            ha="center",
        )
    axes.margins(y=0.3)
    axes.axhline(100, color=TEACHER, linewidth=1, alpha=0.5)
    # names of lines stand in the half of the axes that the teacher's line does not cross
    is_low = sum(axes.get_ylim()) / 2 > 100
    for tower in lines:
        x = getattr(tower, key)
        axes.axvline(x, color=tower.color, linestyle=":", linewidth=1.5)
        axes.annotate(
            tower.label,
            (x, 1 if is_low else 0),
            (4, -6 if is_low else 6),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=tower.color,
            rotation=90,
            va="top" if is_low else "bottom",
        )
    values = [getattr(tower, key) for tower in (*points, *lines)]
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 4, max(values) * 1.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
