"""Where a heat map peaks, in pixels of the image and in words."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.inference.place import Place


def heatmap(row: int, column: int, radius: int = 4, side: int = 60) -> np.ndarray:
    """Cosines with a plateau of 0.3 around a location, 0.1 elsewhere."""
    rows, columns = np.ogrid[:side, :side]
    inside = (abs(rows - row) <= radius) & (abs(columns - column) <= radius)
    values = np.where(inside, 0.3, 0.1).astype(np.float32)
    values[row, column] = 0.31
    return values


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (8, 8, "top left"), (8, 30, "top center"), (30, 52, "middle right"), (30, 30, "center"),
        (52, 8, "bottom left"), (52, 52, "bottom right"),
    ],
)  # fmt: skip
def test_words_say_in_which_ninth_of_the_image_the_peak_is(
    row: int, column: int, words: str
) -> None:
    place = Place.of(heatmap(row, column), Image.new("RGB", (60, 60)))
    assert place.in_words().startswith(f"{words}, ")


def test_coordinates_are_those_of_the_whole_image_of_which_the_map_shows_the_square() -> None:
    place = Place.of(heatmap(10, 20), Image.new("RGB", (640, 480)))  # scale 8, left margin 80
    assert place.box == (80 + 16 * 8, 6 * 8, 80 + 25 * 8, 15 * 8)
    assert place.peak == (80 + 164, 84)
    assert place.area == pytest.approx(81 * 64 / (640 * 480))


def test_coordinates_are_those_of_the_upright_image() -> None:
    turned = Image.new("RGB", (480, 640))
    turned.getexif()[0x0112] = 6  # is shown after a quarter turn: 640 wide
    place = Place.of(heatmap(30, 52), turned)
    assert place.size == (640, 480)
    assert place.in_words().startswith("middle right")


def test_a_second_peak_apart_from_the_first_is_not_in_the_region() -> None:
    values = np.maximum(heatmap(10, 10), heatmap(45, 45) - 0.02)
    place = Place.of(values, Image.new("RGB", (60, 60)))
    assert place.box == (6, 6, 15, 15)


def test_a_map_without_contrast_is_called_uncertain() -> None:
    values = 0.2 + 0.1 * (heatmap(10, 10) - 0.1)
    assert "uncertain" in Place.of(values, Image.new("RGB", (60, 60))).in_words()
    assert "uncertain" not in Place.of(heatmap(10, 10), Image.new("RGB", (60, 60))).in_words()


def test_a_flat_map_is_the_whole_image() -> None:
    place = Place.of(np.full((60, 60), 0.2, np.float32), Image.new("RGB", (60, 60)))
    assert place.area == pytest.approx(1)
    assert place.box == (0, 0, 60, 60)
