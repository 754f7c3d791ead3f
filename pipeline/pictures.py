"""From a picture file as people have them to the JPEG that a shard stores."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF
QUALITY = 95
ENOUGH = (64, 64)  # pixels for a difference hash


class UnusablePicture(Exception):
    """Why a picture cannot be used, in a few words."""


@dataclass(frozen=True)
class Picture:
    """A picture as a shard stores it.

    Attributes:
        jpeg: The file: RGB and upright.
        size: Width and height in pixels.
        hash: See `difference_hash`.
    """

    jpeg: bytes
    size: tuple[int, int]
    hash: int


def read_picture(path: Path, max_side: int | None) -> Picture:
    """Reads a picture file; see `decode_picture`.

    Raises:
        UnusablePicture: Missing, unreadable, truncated or implausibly large.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnusablePicture("no such file") from None
    except (OSError, ValueError) as error:
        raise UnusablePicture(f"unreadable ({error})") from error
    return decode_picture(data, max_side)


def decode_picture(data: bytes, max_side: int | None) -> Picture:
    """Reads all of a picture. A JPEG that is RGB, upright and small enough keeps its bytes.

    Args:
        data: A file of any format that Pillow reads.
        max_side: Longest side; larger pictures are reduced. None keeps every size.

    Raises:
        UnusablePicture: Unreadable, truncated or implausibly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if (
                    image.format == "JPEG"
                    and image.mode == "RGB"
                    and image.getexif().get(ORIENTATION, 1) == 1
                    and (max_side is None or max(image.size) <= max_side)
                ):
                    size = image.size
                    # libjpeg still reads every coefficient, and computes as many pixels as a hash
                    # needs, which takes half the time
                    image.draft("RGB", ENOUGH)
                    image.load()
                    return Picture(data, size, difference_hash(image))
                image.load()
                return _encode(to_rgb(image), max_side)
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


def encode_pixels(pixels: np.ndarray, max_side: int | None) -> Picture:
    """A JPEG that hardly differs from pixels that were never compressed.

    Args:
        pixels: uint8 [height, width, 3], or [height, width] in grey.
        max_side: See `decode_picture`.
    """
    return _encode(Image.fromarray(pixels).convert("RGB"), max_side, quality=100, subsampling=0)


def difference_hash(rgb: Image.Image) -> int:
    """64 bits that compression and scaling hardly change: whether the picture gets brighter from
    each cell of a 9 x 8 grid to the one on its right.
    """
    # fractions of a grey level decide wherever neighbours are alike
    grey = np.asarray(rgb.convert("L").convert("F").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _encode(rgb: Image.Image, max_side: int | None, **options: int) -> Picture:
    if max_side is not None and max(rgb.size) > max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", **{"quality": QUALITY} | options)
    return Picture(buffer.getvalue(), rgb.size, difference_hash(rgb))
