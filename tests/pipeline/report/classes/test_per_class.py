"""What the student retains of each class, and where it loses most."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.classes.per_class import (
    MAX_ROWS,
    class_chart,
    class_scores,
    missed_images,
    shown_rows,
    worst,
)
from tests.helpers.predicted import predictions

LABELS = [0, 0, 0, 0, 1, 1, 2, 2]
TEACHER = [0, 0, 0, 0, 1, 0, 0, 0]
STUDENT = [0, 1, 1, 2, 1, 1, 2, 0]


def test_classes_are_sorted_by_what_the_student_retains_of_the_teacher() -> None:
    scores = class_scores(predictions("abcd", LABELS, STUDENT, TEACHER, held_out=[1]))
    assert [s.name for s in scores] == ["a", "b", "c"]  # d does not occur, c has no share
    assert [s.retained for s in scores] == [0.25, 2.0, None]
    assert [(s.teacher, s.student, s.images) for s in scores] == [
        (1.0, 0.25, 4), (0.5, 1.0, 2), (0.0, 0.5, 2),
    ]  # fmt: skip
    assert [s.mistaken_for for s in scores] == ["b", "", "a"]
    assert [s.is_held_out for s in scores] == [False, True, False]
    assert [s.name for s in worst(scores)] == ["a"]


def test_without_a_teacher_classes_are_sorted_by_accuracy() -> None:
    scores = class_scores(predictions("abcd", LABELS, STUDENT))
    assert [s.name for s in scores] == ["a", "c", "b"]
    assert [s.name for s in worst(scores)] == ["a", "c"]
    assert "accuracy of the student" in class_chart(scores)


def test_examples_are_first_those_that_the_teacher_gets_right() -> None:
    confidence = [0.1, 0.2, 0.3, 0.9]
    found = predictions("ab", [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], confidence=confidence)
    assert missed_images(found, 0, 2) == [2, 1]
    assert missed_images(found, 0, 9) == [2, 1, 0]


@pytest.mark.parametrize("count", [1, MAX_ROWS, MAX_ROWS + 1, 10_000])
def test_tables_and_charts_of_any_number_of_classes_are_bounded(count: int) -> None:
    labels = np.arange(3 * count) % count
    student = np.where(labels % 3, labels, (labels + 1) % count)
    scores = class_scores(
        predictions([f"class {n}" for n in range(count)], labels, student, labels)
    )
    assert len(scores) == count
    rows = shown_rows(scores)
    assert len(rows) == min(count, MAX_ROWS)
    assert rows[0] == scores[0] and rows[-1] == scores[-1]
    assert len(class_chart(scores)) < 100_000


def test_a_teacher_that_is_never_right_leaves_no_shares_and_a_chart() -> None:
    scores = class_scores(predictions("ab", [0, 1], [0, 1], [1, 0]))
    assert [s.retained for s in scores] == [None, None]
    assert class_chart(scores).startswith("<svg")
