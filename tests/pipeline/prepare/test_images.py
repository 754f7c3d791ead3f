"""Images of every kind become RGB JPEGs, upright and whole, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from kdeov.models.student import VisualStudent
from pipeline.prepare import images as images
from pipeline.prepare.images import ORIENTATION, UnusableImage, decode_image
from tests.helpers.image_bytes import (
    BLUE,
    CMYK,
    RED,
    SIZE,
    WHITE,
    animated,
    encoded,
    gray16,
    halves,
    odd_colors,
    palette,
    read,
    rotated,
    without_adobe,
)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_an_upright_rgb_jpeg_keeps_its_bytes(options: dict[str, Any]) -> None:
    data = encoded(halves(), "JPEG", quality=60, **options)
    assert decode_image(data, None).jpeg == data
    assert decode_image(data, SIZE[0]).jpeg == data


@pytest.mark.parametrize(
    ("name", "make", "left", "right"),
    [
        ("png", lambda: encoded(halves(), "PNG"), RED, BLUE),
        ("webp", lambda: encoded(halves(), "WEBP", lossless=True), RED, BLUE),
        ("bmp", lambda: encoded(halves(), "BMP"), RED, BLUE),
        ("grey", lambda: encoded(halves(200, 50, "L"), "PNG"), (200,) * 3, (50,) * 3),
        ("grey-jpeg", lambda: encoded(halves(200, 50, "L"), "JPEG"), (200,) * 3, (50,) * 3),
        ("bilevel", lambda: encoded(halves(1, 0, "1"), "PNG"), WHITE, (0,) * 3),
        ("16-bit", lambda: encoded(gray16(128 * 257), "PNG"), (128,) * 3, (128,) * 3),
        ("16-bit-dark", lambda: encoded(gray16(200), "PNG"), (0,) * 3, (0,) * 3),
        ("16-bit-tiff", lambda: encoded(gray16(200 * 257), "TIFF"), (200,) * 3, (200,) * 3),
        ("16-bit-pgm", lambda: encoded(gray16(200 * 257), "PPM"), (200,) * 3, (200,) * 3),
        ("16-bit-jp2", lambda: encoded(gray16(200 * 257), "JPEG2000"), (200,) * 3, (200,) * 3),
        ("16-bit-clear", lambda: encoded(gray16(9), "PNG", transparency=9), WHITE, WHITE),
        ("palette", lambda: encoded(palette(1), "PNG", transparency=1), RED, WHITE),
        (
            "alpha",
            lambda: encoded(halves((*RED, 255), (*BLUE, 0), "RGBA"), "PNG"),
            RED,
            WHITE,
        ),
        ("grey-alpha", lambda: encoded(halves((9, 255), (9, 0), "LA"), "PNG"), (9,) * 3, WHITE),
        ("cmyk", lambda: encoded(CMYK, "JPEG"), RED, BLUE),
        ("cmyk-unmarked", lambda: without_adobe(encoded(CMYK, "JPEG")), RED, BLUE),
        ("cmyk-tiff", lambda: encoded(CMYK, "TIFF"), RED, BLUE),
        ("animated", lambda: animated("GIF"), RED, RED),
        ("animated-webp", lambda: animated("WEBP"), RED, RED),
        ("animated-png", lambda: animated("PNG"), RED, RED),
        ("mpo", lambda: animated("MPO"), RED, RED),
        ("avif", lambda: encoded(halves(), "AVIF"), RED, BLUE),
        ("long-comment", lambda: encoded(halves(), "GIF", comment=b"x" * 70_000), RED, BLUE),
    ],
)  # fmt: skip
def test_every_kind_of_image_becomes_what_a_person_sees(
    name: str, make: Callable[[], bytes], left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    image = read(decode_image(make(), None).jpeg)
    assert image.size == SIZE
    for x, colour in ((8, left), (SIZE[0] - 8, right)):
        assert image.getpixel((x, 12)) == pytest.approx(colour, abs=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_rotated_photograph_stands_upright(kind: str) -> None:
    image = read(decode_image(rotated(kind), None).jpeg)
    assert image.size == SIZE[::-1]
    assert image.getpixel((12, 6)) == pytest.approx(RED, abs=12)
    assert image.getpixel((12, 34)) == pytest.approx(BLUE, abs=12)
    assert ORIENTATION not in image.getexif()


@pytest.mark.parametrize(
    ("size", "max_image_side", "expected"),
    [((100, 50), 40, (40, 20)), ((50, 100), 40, (20, 40)), ((30, 20), 40, (30, 20))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_no_side_is_longer_than_asked_for_and_the_shape_stays(
    size: tuple[int, int], max_image_side: int, expected: tuple[int, int], kind: str
) -> None:
    data = encoded(Image.new("RGB", size, RED), kind)
    assert read(decode_image(data, max_image_side).jpeg).size == expected


def test_a_photograph_is_reduced_as_well_as_by_all_of_its_pixels(shared_data: Path) -> None:
    path = sorted((shared_data / "coco_mini" / "val2017").iterdir())[0]
    with Image.open(path) as photograph:
        whole = read(decode_image(encoded(photograph, "PNG"), 100).jpeg)
    reduced = read(decode_image(path.read_bytes(), 100).jpeg)
    assert reduced.size == whole.size
    assert np.abs(np.asarray(reduced, int) - np.asarray(whole, int)).mean() < 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"just some words", "not an image"),
        (encoded(halves(), "JPEG")[:-200], "(?i)truncated"),
        (encoded(halves(), "PNG")[:-40], "unreadable"),
        (encoded(halves(), "BMP")[:-900], "truncated"),
        (odd_colors(), "broken data stream"),
        (encoded(Image.new("I", SIZE), "TIFF"), "pixels of 32 bits"),
        (encoded(Image.new("F", SIZE), "TIFF"), "pixels of 32 bits"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        decode_image(data, None)


def test_an_image_too_long_for_a_jpeg_is_reduced_or_refused() -> None:
    data = encoded(Image.new("RGB", (65_501, 2)), "PNG")
    assert read(decode_image(data, 1000).jpeg).size == (1000, 1)
    with pytest.raises(UnusableImage, match="longer than 65,500 pixels"):
        decode_image(data, None)


def test_building_a_student_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    VisualStudent(embed_dim=8)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"just some words")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
