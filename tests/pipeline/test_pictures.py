"""Pictures of every kind become RGB JPEGs, upright and whole, or are refused with a reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from kdeov.student import VisualStudent
from pipeline.pictures import ORIENTATION, UnusablePicture, decode_picture, read_picture

SIZE = (40, 24)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left: Any = RED, right: Any = BLUE, mode: str = "RGB") -> Image.Image:
    """A picture whose two halves differ."""
    image = Image.new(mode, SIZE, right)
    image.paste(Image.new(mode, (SIZE[0] // 2, SIZE[1]), left), (0, 0))
    return image


def rotated() -> bytes:
    """A JPEG that is to be turned a quarter clockwise before it is shown."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(halves(), "JPEG", exif=exif, quality=95)


def palette(background: int) -> Image.Image:
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = background
    return image


def animated() -> bytes:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full(SIZE[::-1], value, np.uint16))


def read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    image.load()
    return image


def test_an_upright_rgb_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(halves(), "JPEG", quality=60))
    assert read_picture(path, None).jpeg == path.read_bytes()
    assert read_picture(path, SIZE[0]).jpeg == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "make", "left", "right"),
    [
        ("png", lambda: encoded(halves(), "PNG"), RED, BLUE),
        ("webp", lambda: encoded(halves(), "WEBP", lossless=True), RED, BLUE),
        ("bmp", lambda: encoded(halves(), "BMP"), RED, BLUE),
        ("grey", lambda: encoded(halves(200, 50, "L"), "PNG"), (200,) * 3, (50,) * 3),
        ("grey-jpeg", lambda: encoded(halves(200, 50, "L"), "JPEG"), (200,) * 3, (50,) * 3),
        ("bilevel", lambda: encoded(halves(1, 0, "1"), "PNG"), WHITE, (0,) * 3),
        ("16-bit", lambda: encoded(grey16(128 * 257), "PNG"), (128,) * 3, (128,) * 3),
        ("16-bit-tiff", lambda: encoded(grey16(200 * 257), "TIFF"), (200,) * 3, (200,) * 3),
        ("palette", lambda: encoded(palette(1), "PNG", transparency=1), RED, WHITE),
        (
            "alpha",
            lambda: encoded(halves((*RED, 255), (*BLUE, 0), "RGBA"), "PNG"),
            RED,
            WHITE,
        ),
        ("grey-alpha", lambda: encoded(halves((9, 255), (9, 0), "LA"), "PNG"), (9,) * 3, WHITE),
        (
            "cmyk",
            lambda: encoded(halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG"),
            RED,
            BLUE,
        ),
        ("animated", animated, RED, RED),
    ],
)  # fmt: skip
def test_every_kind_of_picture_becomes_what_a_person_sees(
    tmp_path: Path,
    name: str,
    make: Callable[[], bytes],
    left: tuple[int, ...],
    right: tuple[int, ...],
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    image = read(read_picture(path, None).jpeg)
    assert image.size == SIZE
    for x, colour in ((8, left), (SIZE[0] - 8, right)):
        assert image.getpixel((x, 12)) == pytest.approx(colour, abs=12)


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(rotated())
    image = read(read_picture(path, None).jpeg)
    assert image.size == SIZE[::-1]
    assert image.getpixel((12, 6)) == pytest.approx(RED, abs=12)
    assert image.getpixel((12, 34)) == pytest.approx(BLUE, abs=12)
    assert ORIENTATION not in image.getexif()


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((100, 50), 40, (40, 20)), ((50, 100), 40, (20, 40)), ((30, 20), 40, (30, 20))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_no_side_is_longer_than_asked_for_and_the_shape_stays(
    tmp_path: Path, size: tuple[int, int], max_side: int, expected: tuple[int, int], kind: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.new("RGB", size, RED), kind))
    assert read(read_picture(path, max_side).jpeg).size == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no such file"),
        (b"", "not a picture"),
        (b"just some words", "not a picture"),
        (encoded(halves(), "JPEG")[:-200], "(?i)truncated"),
        (encoded(halves(), "PNG")[:-40], "unreadable"),
        (encoded(halves(), "BMP")[:-900], "truncated"),
    ],
)
def test_what_is_no_whole_picture_is_refused_with_the_reason(
    tmp_path: Path, data: bytes | None, reason: str
) -> None:
    path = tmp_path / "a.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UnusablePicture, match=reason):
        read_picture(path, None)


def test_building_a_student_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    VisualStudent(embed_dim=8)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"just some words")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UnusablePicture, match="unreadable"):
        read_picture(tmp_path, None)


@pytest.mark.parametrize("limit", [SIZE[0] * SIZE[1] - 1, SIZE[0] * SIZE[1] // 3])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(halves(), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnusablePicture, match=f"more than {limit:,} pixels"):
        read_picture(path, None)


def test_a_small_file_of_200_megapixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(UnusablePicture, match="pixels"):
        read_picture(path, None)


def test_a_truncated_photograph_is_refused_wherever_it_ends(shared_data: Path) -> None:
    data = next((shared_data / "coco_mini" / "val2017").iterdir()).read_bytes()
    assert decode_picture(data, None).jpeg == data
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(UnusablePicture, match="truncated"):
            decode_picture(data[: int(len(data) * share)], None)


KINDS = {
    "JPEG": encoded(halves(), "JPEG"),
    "rotated": rotated(),
    "PNG": encoded(halves(), "PNG"),
    "GIF": animated(),
    "TIFF": encoded(halves(), "TIFF", compression="tiff_lzw"),
    "WEBP": encoded(halves(), "WEBP"),
    "BMP": encoded(halves(), "BMP"),
}


@pytest.mark.filterwarnings("ignore")  # Pillow tells at length what it skips
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(1, 600),
)
def test_damaged_bytes_give_a_picture_or_a_reason_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    flips: list[tuple[int, int]],
    cut: int | None,
) -> None:
    data = bytearray(KINDS[kind])
    for position, mask in flips:
        data[position % len(data)] ^= mask
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data[:cut]))
    try:
        jpeg = read_picture(path, 64).jpeg
    except UnusablePicture as why:
        assert str(why)
    else:
        assert max(read(jpeg).size) <= 64
