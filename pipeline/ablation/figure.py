"""The figure of an ablation, as SVG: means over seeds, their deviation, and the first variant."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from pipeline.ablation.gains import Outcome
from pipeline.report.figure_text import class_labels, plain_text
from pipeline.report.results_figure import SETTINGS, STUDENT, TEXT

PANEL_IN, ROW_IN, MARGIN_IN = 2.6, 0.27, 0.8  # inches


def ablation_figure(outcome: Outcome) -> bytes:
    """A panel a metric with a row a variant. The vertical line is the first variant's mean; marks
    are coloured where the interval of the gain leaves out 0. Equal outcomes give equal bytes.
    """
    columns, variants = list(outcome.ablation.metrics), list(outcome.rows)
    rows = range(len(variants))
    with plain_text(SETTINGS):
        size = (1.6 + PANEL_IN * len(columns), MARGIN_IN + ROW_IN * len(variants))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            cells = [outcome.rows[variant][column] for variant in variants]
            for row, cell in zip(rows, cells, strict=True):
                axes.errorbar(
                    [cell.mean],
                    [row],
                    xerr=[cell.deviation or 0.0],
                    color=STUDENT if cell.is_certain else TEXT,
                    marker="o",
                    capsize=3,
                )
            axes.axvline(cells[0].mean, color=TEXT, linewidth=1, alpha=0.5)
            axes.set_xlabel(column)
            axes.patch.set_alpha(0)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(list(rows), class_labels(variants))
        panels[0].invert_yaxis()
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()
