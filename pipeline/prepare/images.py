"""From an image file as people have them to the JPEG that a shard stores."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

# Pillow decodes these itself or by a library; it would hand others, EPS say, to a program
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
WIDENED = ("PNG", "PPM")
ORIENTATION = 0x0112  # EXIF
QUALITY = 95
MOST = 89_478_485  # pixels, with which Pillow begins to warn
LONGEST = 65_500  # pixels of a side that a JPEG can have
GRID = (9, 8)
ENOUGH = (64, 64)  # pixels for a grid


class UnusableImage(Exception):
    """Why an image cannot be used, in a few words."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as a shard stores it.

    Attributes:
        jpeg: The file: RGB and upright.
        size: Width and height in pixels.
        grid: See `grey_grid`.
    """

    jpeg: bytes
    size: tuple[int, int]
    grid: bytes


def decode_image(data: bytes, max_image_side: int | None) -> EncodedImage:
    """Reads all of an image. A JPEG that is RGB, upright and small enough keeps its bytes.

    Args:
        data: A file of one of `FORMATS`.
        max_image_side: Longest side; larger images are reduced. None keeps every size.

    Raises:
        UnusableImage: Unreadable, truncated or implausibly large.
    """
    if not data:
        raise UnusableImage("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST:
                raise UnusableImage(f"more than {MOST:,} pixels")
            if (
                image.format == "JPEG"
                and image.mode == "RGB"
                and image.getexif().get(ORIENTATION, 1) == 1
                and (max_image_side is None or max(image.size) <= max_image_side)
            ):
                size = image.size
                _load_small(image)
                return EncodedImage(data, size, grey_grid(image))
            if max_image_side is not None:
                # libjpeg reduces on its way, to twice what is wanted at least
                image.draft(None, (2 * max_image_side, 2 * max_image_side))
            image.load()
            return _encode(to_rgb(image), max_image_side)
    except Image.DecompressionBombError:  # Pillow's own limit is twice as high
        raise UnusableImage(f"more than {MOST:,} pixels") from None
    except UnidentifiedImageError:
        raise UnusableImage("not an image") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UnusableImage(f"unreadable ({error})") from error


def _load_small(image: Image.Image) -> None:
    """Reads every coefficient of a JPEG, which proves it whole, and computes as few pixels as a
    grid needs: that takes half the time.
    """
    # libjpeg cannot enlarge the colours of a few odd kinds, and in grey it would not try
    usual = JpegImagePlugin.get_sampling(image) != -1
    image.draft("L" if usual else "RGB", ENOUGH)
    image.load()


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as a person sees it: upright, transparency on white, 16 bits scaled to 8, first
    frame.

    Raises:
        UnusableImage: Its pixels are 32-bit numbers, and no one says what white is.
    """
    # Pillow reads grey of 16 bits into 32 where a format is read by its older code
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDENED)
    if image.mode in ("I", "F") and not sixteen:
        raise UnusableImage("pixels of 32 bits; save it with 8 or 16")
    upright = ImageOps.exif_transpose(image)
    if sixteen:
        upright = _eight_bits(upright)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


def _eight_bits(grey: Image.Image) -> Image.Image:
    values = np.asarray(grey)
    eight = Image.fromarray((values >> 8).astype(np.uint8))
    clear = grey.info.get("transparency")
    if isinstance(clear, int):
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return eight


def encode_pixels(pixels: np.ndarray, max_image_side: int | None) -> EncodedImage:
    """A JPEG that hardly differs from pixels that were never compressed.

    Args:
        pixels: uint8 [height, width, 3], or [height, width] in grey.
        max_image_side: See `decode_image`.

    Raises:
        UnusableImage: A side is longer than that of any JPEG.
    """
    return _encode(
        Image.fromarray(pixels).convert("RGB"), max_image_side, quality=100, subsampling=0
    )


def grey_grid(image: Image.Image) -> bytes:
    """The grey levels of 9 x 8 cells, float32 row by row, from which
    `pipeline.prepare.near_duplicates.difference_hashes` follow.
    """
    grey = image if image.mode == "L" else image.convert("L")
    # fractions of a grey level decide wherever neighbours are alike
    return grey.convert("F").resize(GRID, Image.Resampling.BILINEAR).tobytes()


def _encode(rgb: Image.Image, max_image_side: int | None, **options: int) -> EncodedImage:
    if max_image_side is not None and max(rgb.size) > max_image_side:
        rgb.thumbnail((max_image_side, max_image_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(rgb.size) > LONGEST:
        raise UnusableImage(f"longer than {LONGEST:,} pixels; set prepare.max_image_side")
    # without what somebody once wrote into the file, which may be too long for a JPEG
    rgb.save(buffer, "JPEG", comment=b"", **{"quality": QUALITY} | options)
    return EncodedImage(buffer.getvalue(), rgb.size, grey_grid(rgb))
