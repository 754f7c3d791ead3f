"""HEIC is read where its library is installed; what is not read is named by its format."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.prepare import images
from pipeline.prepare.images import ORIENTATION, UnusableImage, decode_image
from tests.helpers.image_bytes import BLUE, RED, SIZE, WHITE, encoded, halves, read


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


HEIC = heic(halves())


def test_a_heic_is_decoded() -> None:
    image = read(decode_image(HEIC, None).jpeg)
    assert image.size == SIZE
    assert image.getpixel((8, 12)) == pytest.approx(RED, abs=12)
    assert image.getpixel((SIZE[0] - 8, 12)) == pytest.approx(BLUE, abs=12)
    assert read(decode_image(HEIC, 20).jpeg).size == (20, 12)


def test_a_heic_stands_upright_and_has_a_white_ground() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = read(decode_image(heic(halves(), exif=exif.tobytes()), None).jpeg)
    assert image.size == SIZE[::-1]
    assert image.getpixel((12, 6)) == pytest.approx(RED, abs=12)
    assert image.getpixel((12, 34)) == pytest.approx(BLUE, abs=12)
    clear = read(decode_image(heic(halves((*RED, 255), (*BLUE, 0), "RGBA")), None).jpeg)
    assert clear.getpixel((SIZE[0] - 8, 12)) == pytest.approx(WHITE, abs=12)


def test_without_its_library_a_heic_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(UnusableImage, match=r"HEIC.*pip install pillow-heif"):
        decode_image(HEIC, None)
    assert decode_image(encoded(halves(), "AVIF"), None).size == SIZE


def test_a_heic_leaves_pillow_as_it_was() -> None:
    decode_image(HEIC, None)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(HEIC))


def test_a_damaged_or_huge_heic_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for end in range(12, len(HEIC), 7):
        with pytest.raises(UnusableImage):
            decode_image(HEIC[:end], None)
    for _ in range(100):
        damaged = bytearray(HEIC)
        for place in rng.integers(12, len(HEIC), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            decode_image(bytes(damaged), 64)
        except UnusableImage as error:
            assert str(error) and "\n" not in str(error)
    monkeypatch.setattr(images, "MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(UnusableImage, match="pixels"):
        decode_image(HEIC, None)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a\xfa\x1f\x01", "JPEG XL"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (encoded(halves(), "ICO"), "ICO"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg/>", "SVG"),
        (encoded(halves(), "PDF"), "PDF"),
        (encoded(halves(), "EPS"), "PostScript"),
        (b"8BPS\0\1", "PSD"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "video"),
        (b"PK\3\4", "ZIP"),
    ],
)
def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UnusableImage, match=f"not an image that can be read.*{name}"):
        decode_image(data, None)


def test_a_text_about_a_format_is_no_file_of_it() -> None:
    for data in (b"an <svg> is a drawing", b"words", b"\xff\xd8\xff\xe0 no more"):
        with pytest.raises(UnusableImage, match=r"not an image$|unreadable"):
            decode_image(data, None)


def png(**options: Any) -> bytes:
    return encoded(halves(), "PNG", **options)


def texts(*lengths: int, packed: bool = True) -> PngInfo:
    info = PngInfo()
    for number, length in enumerate(lengths):
        info.add_text(f"text {number}", "x" * length, zip=packed)
    return info


def international(text: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text, zip=True)
    return info


@pytest.mark.parametrize(
    "data",
    [
        png(icc_profile=bytes(5_000_000)),
        png(pnginfo=texts(3_000_000)),
        png(pnginfo=texts(*[1_000_000] * 80)),
        png(pnginfo=texts(70_000_000, packed=False)),
        png(pnginfo=international("x" * 3_000_000)),
        png(icc_profile=bytes(5_000_000), pnginfo=texts(10, 3_000_000)),
    ],
    ids=["profile", "packed", "many", "plain", "international", "both"],
)
def test_a_png_with_a_large_profile_or_text_is_read(data: bytes) -> None:
    assert decode_image(data, None).jpeg == decode_image(png(), None).jpeg


def test_a_png_with_a_large_text_still_needs_all_of_its_pixels() -> None:
    with pytest.raises(UnusableImage, match="unreadable"):
        decode_image(png(icc_profile=bytes(5_000_000))[:-40], None)


def test_a_rotated_png_with_a_large_text_stands_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = decode_image(png(exif=exif, pnginfo=texts(3_000_000)), None)
    assert image.size == SIZE[::-1]


def test_a_text_that_inflates_to_256_megabytes_takes_no_memory(
    tmp_path: Path, run_python: Any
) -> None:
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    body = b"zTXta\0\0" + packed
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    plain = png()
    path = tmp_path / "bomb.png"
    path.write_bytes(plain[:33] + chunk + plain[33:])  # behind the header
    script = """
import resource, sys
from pathlib import Path
from pipeline.prepare.images import decode_image
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decode_image(data, None).size[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    width, kilobytes = run_python("-c", script, str(path)).stdout.split()
    assert int(width) == SIZE[0] and int(kilobytes) < 50_000
