"""Images of every kind become RGB JPEGs, upright and whole, or are refused with a reason."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from kdeov.models.student import VisualStudent
from pipeline.prepare import images as images
from pipeline.prepare.images import ORIENTATION, UnusableImage, decode_image

SIZE = (40, 24)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left: Any = RED, right: Any = BLUE, mode: str = "RGB") -> Image.Image:
    """An image whose two halves differ."""
    image = Image.new(mode, SIZE, right)
    image.paste(Image.new(mode, (SIZE[0] // 2, SIZE[1]), left), (0, 0))
    return image


def rotated(kind: str = "JPEG") -> bytes:
    """An image that is to be turned a quarter clockwise before it is shown."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(halves(), kind, exif=exif, quality=95)


def palette(background: int) -> Image.Image:
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = background
    return image


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def gray16(value: int) -> Image.Image:
    return Image.fromarray(np.full(SIZE[::-1], value, np.uint16))


CMYK = halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK")


def without_adobe(jpeg: bytes) -> bytes:
    """A JPEG without the segment that says how its colours are meant."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def odd_colours() -> bytes:
    """A JPEG whose colours lie two to every three grey levels, which no one can enlarge."""
    data = bytearray(encoded(halves(), "JPEG", subsampling=2))
    frame = data.index(b"\xff\xc0")
    data[frame + 11], data[frame + 14], data[frame + 17] = 0x31, 0x21, 0x21
    return bytes(data)


def read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    image.load()
    return image


def opens(data: bytes) -> bool:
    """Whether Pillow decodes all of an image."""
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError):
        return False
    return True


def accepts(data: bytes) -> bool:
    try:
        return decode_image(data, None).jpeg == data
    except UnusableImage:
        return False


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
        (odd_colours(), "broken data stream"),
        (encoded(Image.new("I", SIZE), "TIFF"), "pixels of 32 bits"),
        (encoded(Image.new("F", SIZE), "TIFF"), "pixels of 32 bits"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        decode_image(data, None)


def test_a_image_too_long_for_a_jpeg_is_reduced_or_refused() -> None:
    data = encoded(Image.new("RGB", (65_501, 2)), "PNG")
    assert read(decode_image(data, 1000).jpeg).size == (1000, 1)
    with pytest.raises(UnusableImage, match="longer than 65,500 pixels"):
        decode_image(data, None)


def test_no_image_starts_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    with pytest.raises(UnusableImage, match="not an image"):
        decode_image(encoded(halves(), "EPS"), None)
    assert started == []


def test_building_a_student_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    VisualStudent(embed_dim=8)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"just some words")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of it too
@pytest.mark.parametrize("limit", [SIZE[0] * SIZE[1] - 1, SIZE[0] * SIZE[1] // 3])
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    with pytest.raises(UnusableImage, match=f"more than {limit:,} pixels"):
        decode_image(encoded(halves(), "PNG"), None)


BOMB = """
import re, sys
from pathlib import Path
from pipeline.prepare.images import UnusableImage, decode_image
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
data, before = Path(sys.argv[1]).read_bytes(), peak()
try:
    decode_image(data, 64)
except UnusableImage as why:
    print(why)
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_a_small_file_of_200_megapixels_is_refused_in_little_memory(
    tmp_path: Path, run_python: Any, kind: str
) -> None:
    path = tmp_path / "bomb"
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.new("L", (20_000, 10_000)).save(path, kind, **options)
    assert path.stat().st_size < 5_000_000
    why, kilobytes = run_python("-c", BOMB, str(path)).stdout.splitlines()
    assert "pixels" in why and int(kilobytes) < 50_000


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_is_accepted_exactly_where_all_of_it_can_be_decoded(options: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", **options)
    assert accepts(data)
    for end in [*range(0, len(data), 61), *range(len(data) - 50, len(data))]:
        assert not opens(data[:end]) and not accepts(data[:end]), end
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        assert accepts(bytes(damaged)) == opens(bytes(damaged))


def test_a_truncated_photograph_is_refused_wherever_it_ends(shared_data: Path) -> None:
    data = next((shared_data / "coco_mini" / "val2017").iterdir()).read_bytes()
    assert decode_image(data, None).jpeg == data
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(UnusableImage, match="truncated"):
            decode_image(data[: int(len(data) * share)], None)


KINDS = {
    "JPEG": encoded(halves(), "JPEG"),
    "rotated": rotated(),
    "PNG": encoded(halves(), "PNG"),
    "GIF": animated("GIF"),
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
def test_damaged_bytes_give_a_image_or_a_reason_and_nothing_else(
    kind: str, flips: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(KINDS[kind])
    for position, mask in flips:
        data[position % len(data)] ^= mask
    try:
        jpeg = decode_image(bytes(data[:cut]), 64).jpeg
    except UnusableImage as why:
        assert str(why)
    else:
        assert max(read(jpeg).size) <= 64
