"""Image files of many kinds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

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


def odd_colors() -> bytes:
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
