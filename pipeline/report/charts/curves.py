"""The curves of training: loss, cosine with the teacher, and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.charts.svg import GRAY, STUDENT, chart

POINTS: dict[str, Any] = {"marker": "o", "markersize": 3}  # a single epoch is visible too
MANY = 60  # epochs whose points would run into each other


def training_charts(history: Sequence[dict[str, float]]) -> list[Markup]:
    """Loss, validation cosine and learning rate by epoch, a chart each.

    Args:
        history: The rows of `metrics/history.csv`.
    """
    epochs = [row["epoch"] for row in history]
    style = POINTS if len(history) <= MANY else {}

    def draw(axes: Axes, key: str, color: str, label: str | None = None) -> None:
        axes.plot(epochs, [row[key] for row in history], color=color, label=label, **style)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    with chart("loss", "loss by epoch, of training and validation") as loss:
        draw(loss.axes, "train_total", GRAY, "training, all terms")
        draw(loss.axes, "val_loss", STUDENT, "validation, feature term")
        loss.axes.set_title("loss")
        loss.axes.legend()
    with chart("cosine", "validation cosine with the teacher by epoch") as cosine:
        draw(cosine.axes, "val_cosine", STUDENT)
        cosine.axes.set_title("cosine with the teacher, validation")
    with chart("rate", "learning rate by epoch") as rate:
        draw(rate.axes, "learning_rate", GRAY)
        rate.axes.set_title("learning rate")
    return [loss.svg, cosine.svg, rate.svg]
