"""Uploaded images: read within limits, and heat maps as PNG."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdeov.errors import DataError, first_line
from kdeov.runtime.images import FORMATS

THUMBNAIL = 320  # pixels of the longer side


class TooLargeError(DataError):
    """An image of more pixels than the server reads."""


def read_upload(content: bytes, max_pixels: int) -> Image.Image:
    """An image, not decoded yet, whose header has been read.

    Raises:
        TooLargeError: It has too many pixels.
        DataError: It is none.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(f"not an image of {', '.join(FORMATS)}; convert it") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"too many pixels; at most {max_pixels:,}") from error
    # Pillow lets errors of its parsers through
    except (OSError, SyntaxError, ValueError, RuntimeError, LookupError, EOFError) as error:
        raise DataError(f"unreadable ({first_line(error)}); send the file again") from error
    if image.width * image.height > max_pixels:
        raise TooLargeError(
            f"{image.width} x {image.height} pixels; at most {max_pixels:,}, reduce it"
        )
    return image


def heatmap_png(heatmap: np.ndarray) -> str:
    """A heat map [H, W] as a gray PNG in base64: black is its least value, white its greatest."""
    low, high = float(heatmap.min()), float(heatmap.max())
    gray = (heatmap - low) * (255 / max(high - low, 1e-6))
    content = io.BytesIO()
    Image.fromarray(gray.round().astype(np.uint8)).save(content, "png")
    return base64.b64encode(content.getvalue()).decode("ascii")


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG of an upright RGB image."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "jpeg", quality=85)
    return content.getvalue()
