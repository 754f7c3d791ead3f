"""The confusion matrix is legible for some classes, and bounded for any number of them."""

from __future__ import annotations

import base64
import io
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.report.classes.confusion import (
    LABEL_COLUMNS,
    MAX_BLOCKS,
    MAX_NAMED,
    BlockMatrix,
    NamedMatrix,
    block_png,
    confused_pairs,
    confusion_matrix,
    short_label,
)
from tests.helpers.predicted import predictions


def drawn(classes: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and predictions of two models, of which half are right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    wrong = rng.integers(classes, size=(2, images))
    half = rng.random((2, images)) < 0.5
    return labels, *np.where(half, labels, wrong)


def test_pairs_are_counted_and_the_most_frequent_come_first() -> None:
    labels, student, teacher = drawn(7, 500)
    names = [f"class {n}" for n in range(7)]
    pairs = confused_pairs(predictions(names, labels, student, teacher), count=100)
    expected = Counter((names[a], names[b]) for a, b in zip(labels, student, strict=True) if a != b)
    alike = Counter((names[a], names[b]) for a, b in zip(labels, teacher, strict=True))
    assert {(p.label, p.predicted): p.count for p in pairs} == expected
    assert [p.count for p in pairs] == sorted(expected.values(), reverse=True)
    assert all(p.teacher == alike[p.label, p.predicted] for p in pairs)
    assert all(p.images == (labels == names.index(p.label)).sum() for p in pairs)


def test_without_a_teacher_pairs_have_no_count_of_it() -> None:
    (pair,) = confused_pairs(predictions("ab", [0, 1], [1, 1]))
    assert (pair.label, pair.predicted, pair.count, pair.images, pair.teacher) == (
        "a", "b", 1, 1, None,
    )  # fmt: skip
    assert confused_pairs(predictions("ab", [0, 1], [0, 1])) == []


def test_cells_are_shares_of_the_rows_and_say_so_in_words() -> None:
    matrix = confusion_matrix(predictions(["a", "<b>"], [0, 0, 0, 1], [0, 1, 1, 1]))
    assert isinstance(matrix, NamedMatrix)
    assert {(c.row, c.column): c.share for c in matrix.cells} == {
        (0, 0): pytest.approx(1 / 3), (0, 1): pytest.approx(2 / 3), (1, 1): 1.0,
    }  # fmt: skip
    assert matrix.cells[1].title == "2 of 3 a: <b>"


@pytest.mark.parametrize("classes", [MAX_NAMED + 1, 1000, 10_000])
def test_many_classes_are_drawn_in_blocks_within_seconds(classes: int) -> None:
    labels, student, teacher = drawn(classes, 50_000)
    found = predictions([f"class {n}" for n in range(classes)], labels, student, teacher)
    start = time.process_time()
    matrix, pairs = confusion_matrix(found), confused_pairs(found)
    assert time.process_time() - start < 5
    assert isinstance(matrix, BlockMatrix) and len(matrix.url) < 500_000 and len(pairs) == 30
    image = Image.open(io.BytesIO(base64.b64decode(matrix.url.partition(",")[2])))
    assert image.mode == "RGBA" and max(image.size) <= 2 * MAX_BLOCKS
    assert matrix.classes == -(-classes // MAX_BLOCKS)


def test_blocks_without_images_are_transparent_and_the_diagonal_is_not() -> None:
    count = 4 * MAX_BLOCKS
    labels = np.arange(count)
    png, classes = block_png(predictions([str(n) for n in range(count)], labels, labels))
    alpha = np.asarray(Image.open(io.BytesIO(png)))[..., 3]
    assert classes == 4
    assert (np.diag(alpha) == 255).all() and (alpha > 0).mean() < 2 / MAX_BLOCKS


@pytest.mark.parametrize(
    "name",
    ["short", "x" * 400, "日本" * 40, "two\nlines\x00", "a\u202eb", "", "שלום " * 30, "🦄" * 50],
)
def test_labels_fit_beside_the_matrix_on_one_line(name: str) -> None:
    label = short_label(name)
    assert label.isprintable() and len(label) <= LABEL_COLUMNS
    matrix = confusion_matrix(predictions([name, "other"], [0, 1], [1, 1]))
    assert isinstance(matrix, NamedMatrix) and matrix.margin < 200
    assert short_label("short") == "short"
    assert short_label("y" * 60).startswith("yyy") and "…" in short_label("y" * 60)
