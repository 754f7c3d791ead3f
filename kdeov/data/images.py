"""From an image as files and arrays hold it to the RGB image that a person sees. `prepare`, the
Python API and the teachers all read images here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from kdeov.errors import DataError

WIDE_FORMATS = ("PNG", "PPM")  # Pillow may read their 16-bit gray into 32 bits
CHANNELS = (1, 2, 3, 4)  # gray, gray and alpha, RGB, RGB and alpha


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame of an image in RGB: upright, transparency on white, 16 bits scaled to 8.

    Raises:
        DataError: Its pixels are 32-bit numbers, whose white level is unknown; the text is the
            reason alone.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDE_FORMATS)
    if image.mode in ("I", "F") and not sixteen:
        raise DataError("pixels of 32 bits; save it with 8 or 16")
    upright = ImageOps.exif_transpose(image)
    if sixteen:
        upright = _eight_bits(upright)
    if upright.has_transparency_data:
        if upright.mode == "La":  # Pillow converts it to nothing else
            upright = upright.convert("LA")
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


def image_of_array(values: np.ndarray) -> Image.Image:
    """An array of pixels as an image for `to_rgb`.

    Args:
        values: Integers [H, W] or [H, W, C] with C of `CHANNELS`: unsigned ones of 16 bits up to
            65,535, others up to 255.

    Raises:
        DataError: Values outside of 0 to 255; the text is the reason alone.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = values >> 8
    elif values.min() < 0 or values.max() > 255:
        raise DataError(
            f"pixels from {values.min()} to {values.max()}; give 0 to 255, or uint16 for 16 bits"
        )
    if values.shape[2:] == (1,):
        values = values[..., 0]
    return Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8))


def _eight_bits(gray: Image.Image) -> Image.Image:
    values = np.asarray(gray)
    eight = Image.fromarray((values >> 8).astype(np.uint8))
    clear = gray.info.get("transparency")
    if isinstance(clear, int):
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return eight
