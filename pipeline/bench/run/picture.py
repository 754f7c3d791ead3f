"""The README's figure of speed: the latency of one image, a bar a tower."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import figure as mpl

from pipeline.bench.figures import Figure
from pipeline.bench.run.latencies import RUNTIMES, STUDENT, SUFFIX, key_of
from pipeline.bench.sizes import RunSizes
from pipeline.report.figure_text import plain_text
from pipeline.report.results_figure import SETTINGS, TEXT
from pipeline.report.results_figure import STUDENT as STUDENT_COLOR
from pipeline.report.results_figure import TEACHER as REFERENCE_COLOR

FORMS = {"student_onnx": "ONNX Runtime", "student_int8": "ONNX Runtime, INT8"}


def speed_picture(figures: Sequence[Figure], sizes: RunSizes) -> bytes:
    """Bars of the latencies, as SVG. Equal figures give equal bytes.

    Args:
        figures: Those of `latency_figures`.
        sizes: Sizes that they were measured with.
    """
    bars = _bars(figures, sizes)
    with plain_text(SETTINGS):
        figure = mpl.Figure(figsize=(8.6, 0.42 * len(bars) + 0.9), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        labels, values, colors = zip(*bars, strict=True)
        drawn = axes.barh(range(len(bars)), values, color=colors, height=0.62)
        axes.bar_label(drawn, [f"{value:.1f} ms" for value in values], padding=4, color=TEXT)
        axes.set_yticks(range(len(bars)), labels)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(f"latency of one image of {sizes.image_size} px on one CPU thread, ms")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()


def _bars(figures: Sequence[Figure], sizes: RunSizes) -> list[tuple[str, float, str]]:
    """Label, milliseconds and color, from the top."""
    found = {figure.name: figure.value for figure in figures}
    labels = {
        name: (f"student ({sizes.backbone}), {FORMS[name]}", STUDENT_COLOR) for name in STUDENT
    }
    for architecture, _ in sizes.references:
        for runtime, where in RUNTIMES.items():
            label = f"{architecture}, {where}"
            labels[f"{key_of(architecture)}_{runtime}"] = label, REFERENCE_COLOR
    return [
        (label, found[f"{name}{SUFFIX}"], color)
        for name, (label, color) in labels.items()
        if f"{name}{SUFFIX}" in found
    ]
