"""Images in squares, and boxes there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdeov.detection.letterbox import GRAY, Letterbox
from kdeov.errors import ConfigError


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([64, 96, 640]))
def test_boxes_come_back_from_the_square(width: int, height: int, side: int) -> None:
    fit = Letterbox.fit((width, height), side)
    boxes = np.array([[0, 0, width, height], [width / 4, 0, width / 2, height / 3]])
    square = fit.to_square(boxes)
    assert square.min() >= 0 and square.max() <= side
    np.testing.assert_allclose(fit.to_image(square), boxes, atol=1e-6 * max(width, height))


def test_the_image_lies_in_the_middle_with_gray_margins() -> None:
    image = Image.new("RGB", (100, 50), (255, 0, 0))
    pixels = Letterbox.fit(image.size, 64).pixels(image)
    assert pixels.shape == (3, 64, 64)
    assert (pixels[:, :16] == GRAY).all() and (pixels[:, 48:] == GRAY).all()
    assert (pixels[:, 16:48] == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


def test_an_image_that_fits_keeps_its_pixels() -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 40, 3), dtype=np.uint8)
    fit = Letterbox.fit((40, 64), 64)
    square = fit.pixels(Image.fromarray(values))
    assert (square[:, :, 12:52] == values.transpose(2, 0, 1)).all()


def test_boxes_outside_the_image_are_clipped() -> None:
    fit = Letterbox.fit((100, 50), 100)
    assert fit.to_image(np.array([-9.0, 0, 120, 90])).tolist() == [0, 0, 100, 50]


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 x 5"):
        Letterbox.fit((0, 5), 64)
