"""The calibration of teacher and student: reliability diagrams and the calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kdeov.evaluation.calibration import Reliability
from pipeline.report.charts.svg import GRAY, INK, STUDENT, TEACHER, chart
from pipeline.report.classes.predictions import Predictions

COLORS = {"teacher": TEACHER, "student": STUDENT}


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model.

    Attributes:
        model: `teacher` or `student`.
        ece: The expected calibration error in `metrics/zero_shot.json`.
        confidence: Mean probability of the predicted classes.
        accuracy: Share of right predictions.
        diagram: The reliability diagram.
    """

    model: str
    ece: float
    confidence: float
    accuracy: float
    diagram: Markup

    @property
    def verdict(self) -> str:
        """Whether the probabilities are too high or too low on average."""
        gap = self.confidence - self.accuracy
        if abs(gap) < 0.01:
            return "neither over- nor underconfident on average"
        return f"{'overconfident' if gap > 0 else 'underconfident'} by {abs(100 * gap):.1f} points"


def calibrations(predictions: Predictions, ece: dict[str, float]) -> list[Calibration]:
    """The calibration of each model.

    Args:
        predictions: Of zero-shot classification.
        ece: By model, the expected calibration error.
    """
    found = []
    for model in predictions.models:
        bins = predictions.reliability(model)
        accuracy = float(predictions.right(model).mean())
        found.append(
            Calibration(
                model, ece[model], accuracy + bins.overconfidence, accuracy, _diagram(model, bins)
            )
        )
    return found


def _diagram(model: str, bins: Reliability) -> Markup:
    """Accuracy by confidence, with the share of images in each bin below."""
    count = len(bins.counts)
    edges, filled = np.linspace(0, 1, count + 1), bins.counts > 0
    left, width = edges[:-1][filled], 1 / count
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    share = bins.counts[filled] / bins.counts.sum()
    label = f"reliability diagram of the {model}: accuracy by confidence in {count} bins"
    with chart(f"reliability-{model}", label, height=2.9) as drawn:
        axes = drawn.axes
        axes.bar(left, accuracy, width, align="edge", color=COLORS[model], alpha=0.75, linewidth=0)
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1.2)
        axes.vlines(confidence, accuracy, confidence, color=INK, linewidth=1, alpha=0.8)
        axes.bar(left, -0.22 * share / share.max(), width, align="edge", color=GRAY, alpha=0.5)
        axes.axhline(0, color=GRAY, linewidth=0.8)
        axes.set(xlim=(0, 1), ylim=(-0.25, 1), xlabel="confidence", ylabel="accuracy")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_title(model)
    return drawn.svg
