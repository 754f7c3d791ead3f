"""Accuracy by class: what the student retains of its teacher's, and where it loses most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.report.charts.svg import MISS, SOFT, STUDENT, chart
from pipeline.report.classes.predictions import Predictions

MAX_ROWS = 200  # of the table of all classes; of more, as many from both ends
MAX_POINTS = 400  # of the curve
NUM_WORST = 8


@dataclass(frozen=True)
class ClassScore:
    """The accuracy of a class.

    Attributes:
        number: Its number.
        name: Its name.
        is_held_out: Whether training had not seen it.
        images: Test images of it, at least 1.
        student: Share of them that the student classifies rightly.
        teacher: The same of the teacher; None where it has no predictions.
        mistaken_for: The class that the student most often predicts in its place; empty if none.
    """

    number: int
    name: str
    is_held_out: bool
    images: int
    student: float
    teacher: float | None
    mistaken_for: str

    @property
    def retained(self) -> float | None:
        """The student's share of the teacher's accuracy; None where that is 0 or missing."""
        return self.student / self.teacher if self.teacher else None

    @property
    def loss(self) -> float:
        """Accuracy that the student lacks: of the teacher's, or of 1 where there is none."""
        return (1.0 if self.teacher is None else self.teacher) - self.student


def class_scores(predictions: Predictions) -> list[ClassScore]:
    """The classes that occur, by what the student retains of the teacher's accuracy, the least
    first; classes in which the teacher is never right come last. Without a teacher they are in
    order of the student's accuracy.
    """
    count = len(predictions.names)
    images = np.bincount(predictions.labels, minlength=count)
    shares = {
        model: np.bincount(predictions.labels, predictions.right(model), minlength=count)
        / np.maximum(images, 1)
        for model in predictions.models
    }
    mistaken = _mistaken_for(predictions)
    scores = [
        ClassScore(
            number=number,
            name=predictions.names[number],
            is_held_out=number in predictions.held_out,
            images=int(images[number]),
            student=float(shares["student"][number]),
            teacher=float(shares["teacher"][number]) if "teacher" in shares else None,
            mistaken_for=predictions.names[mistaken[number]] if number in mistaken else "",
        )
        for number in np.flatnonzero(images).tolist()
    ]
    has_teacher = "teacher" in shares

    def order(score: ClassScore) -> tuple[float, float, int]:
        first = score.retained if has_teacher else score.student
        return (np.inf if first is None else first, -score.loss, score.number)

    return sorted(scores, key=order)


def worst(scores: list[ClassScore], count: int = NUM_WORST) -> list[ClassScore]:
    """The classes in which the student lacks most accuracy, in points; none that lacks nothing."""
    losing = [score for score in scores if score.loss > 0]
    return sorted(losing, key=lambda score: (-score.loss, score.number))[:count]


def shown_rows(scores: list[ClassScore]) -> list[ClassScore]:
    """The rows of the table of all classes: the first and the last, where there are many."""
    if len(scores) <= MAX_ROWS:
        return scores
    return scores[: MAX_ROWS // 2] + scores[-MAX_ROWS // 2 :]


def missed_images(predictions: Predictions, label: int, count: int) -> list[int]:
    """Rows of a class that the student classifies wrongly, first those in which the teacher is
    right, and of them the most confident ones.
    """
    wrong = np.flatnonzero((predictions.labels == label) & ~predictions.right("student"))
    teacher = (
        predictions.right("teacher")[wrong]
        if "teacher" in predictions.predicted
        else np.zeros(len(wrong), bool)
    )
    order = np.lexsort((-predictions.confidence["student"][wrong], ~teacher))
    return wrong[order][:count].tolist()


def class_chart(scores: list[ClassScore]) -> Markup:
    """What the student retains of each class, sorted; its accuracy where there is no teacher."""
    has_teacher = any(score.teacher is not None for score in scores)
    values = [score.retained if has_teacher else score.student for score in scores]
    kept = np.array([value for value in values if value is not None])
    places = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MAX_POINTS)).astype(int))
    label = "retained accuracy" if has_teacher else "accuracy of the student"
    with chart("classes", f"{label} of {len(kept)} classes, sorted") as drawn:
        axes = drawn.axes
        if len(kept):
            axes.fill_between(places + 1, 100 * kept[places], step="mid", color=STUDENT, alpha=0.2)
            axes.step(places + 1, 100 * kept[places], where="mid", color=STUDENT)
            median = float(np.median(kept))
            axes.axhline(100 * median, color=SOFT, linestyle=":", linewidth=1)
            if has_teacher:
                axes.axhline(100, color=MISS, linewidth=1, alpha=0.6)
            axes.set_xlim(0.5, len(kept) + 0.5)
            axes.set_title(f"{label} by class, median {median:.0%}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("classes, sorted")
        axes.yaxis.set_major_formatter("{x:g}%")
    return drawn.svg


def _mistaken_for(predictions: Predictions) -> dict[int, int]:
    """For each class with mistakes of the student, the class that it most often predicts."""
    wrong = ~predictions.right("student")
    pairs, counts = np.unique(
        np.stack([predictions.labels[wrong], predictions.predicted["student"][wrong]]),
        axis=1, return_counts=True,
    )  # fmt: skip
    order = np.argsort(counts, kind="stable")  # the most frequent is assigned last
    return dict(zip(pairs[0][order].tolist(), pairs[1][order].tolist(), strict=True))
