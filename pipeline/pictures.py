"""From a picture file as people have them to the JPEG that a shard stores."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF
QUALITY = 95


class UnusablePicture(Exception):
    """Why a picture cannot be used, in a few words."""


def to_jpeg(path: Path, max_side: int | None) -> bytes:
    """Reads a picture, decodes all of it, and returns a JPEG in RGB with its upright orientation.

    A JPEG that is RGB, upright and small enough keeps its bytes.

    Args:
        path: The file.
        max_side: Longest side; larger pictures are reduced. None keeps every size.

    Raises:
        UnusablePicture: Missing, unreadable, truncated or implausibly large.
    """
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                keeps = (
                    image.format == "JPEG"
                    and image.mode == "RGB"
                    and image.getexif().get(ORIENTATION, 1) == 1
                    and (max_side is None or max(image.size) <= max_side)
                )
                return data if keeps else _encode(image, max_side)
    except FileNotFoundError:
        raise UnusablePicture("no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusablePicture(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise UnusablePicture("not a picture") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UnusablePicture(f"unreadable ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: upright, transparency on white, 16 bits scaled to 8, first
    frame.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        _, high = upright.getextrema()
        top = 65535 if isinstance(high, int) and high > 255 else 255
        upright = upright.convert("F").point(lambda v: v * (255 / top)).convert("L")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


def _encode(image: Image.Image, max_side: int | None) -> bytes:
    rgb = to_rgb(image)
    if max_side is not None and max(rgb.size) > max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
