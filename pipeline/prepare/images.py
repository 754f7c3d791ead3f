"""Image files in any common format to the JPEG that a shard stores."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from kdeov.data.images import to_rgb
from kdeov.errors import DataError
from pipeline.prepare.formats import is_heif, not_an_image
from pipeline.prepare.png_chunks import without_large_texts

# Pillow decodes these itself or with a library; others, such as EPS, it passes to a program
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
ORIENTATION = 0x0112  # EXIF
QUALITY = 95
MAX_PIXELS = 89_478_485  # from which on Pillow warns of decompression bombs
MAX_JPEG_SIDE = 65_500  # pixels
GRID = (9, 8)
DRAFT_SIZE = (64, 64)  # pixels; enough for a grid


class UnusableImage(Exception):
    """An image cannot be used; the text is the reason in a few words."""


class UnreadImage(UnusableImage):
    """The bytes of an image could not be read, which may be otherwise the next time."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as a shard stores it.

    Attributes:
        jpeg: The file: RGB and upright.
        size: Width and height in pixels.
        grid: Gray levels of 9 x 8 cells (see `gray_grid`).
    """

    jpeg: bytes
    size: tuple[int, int]
    grid: bytes


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppresses warnings of image libraries: unusable images are rejected with a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(data: bytes, max_image_side: int | None) -> EncodedImage:
    """Decodes an image completely. A JPEG that is RGB, upright and small enough keeps its bytes.

    Args:
        data: The bytes of a file in one of `FORMATS`, or in HEIC where pillow-heif is installed.
        max_image_side: Longest side; larger images are reduced. None keeps every size.

    Raises:
        UnusableImage: Unreadable, truncated or implausibly large.
    """
    try:
        return _decode(data, max_image_side)
    except UnusableImage:
        if (smaller := without_large_texts(data)) is None:
            raise
        return _decode(smaller, max_image_side)


def _decode(data: bytes, max_image_side: int | None) -> EncodedImage:
    if not data:
        raise UnusableImage("an empty file")
    try:
        with _open(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableImage(f"more than {MAX_PIXELS:,} pixels")
            if (
                image.format == "JPEG"
                and image.mode == "RGB"
                and image.getexif().get(ORIENTATION, 1) == 1
                and (max_image_side is None or max(image.size) <= max_image_side)
            ):
                size = image.size
                _load_small(image)
                return EncodedImage(data, size, gray_grid(image))
            if max_image_side is not None:
                # libjpeg downscales while decoding, to no less than twice the wanted size
                image.draft(None, (2 * max_image_side, 2 * max_image_side))
            image.load()
            return _encode(to_rgb(image), max_image_side)
    except Image.DecompressionBombError:  # Pillow's own limit is twice as high
        raise UnusableImage(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise UnusableImage(not_an_image(data)) from None
    except DataError as error:
        raise UnusableImage(str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnusableImage(f"unreadable ({error})") from error


def _open(data: bytes) -> Image.Image:
    return _open_heif(data) if is_heif(data) else Image.open(io.BytesIO(data), formats=FORMATS)


def _open_heif(data: bytes) -> Image.Image:
    """The main image of a HEIC file, upright. Pillow's own formats stay as they are."""
    try:
        import pillow_heif  # an extra
    except ImportError:
        raise UnusableImage(
            "HEIC, which needs pillow-heif; run `pip install pillow-heif`"
        ) from None
    try:
        file = pillow_heif.open_heif(io.BytesIO(data))
        if file.size[0] * file.size[1] > MAX_PIXELS:  # known before it is decoded
            raise UnusableImage(f"more than {MAX_PIXELS:,} pixels")
        return file.to_pillow()
    except (OSError, ValueError, RuntimeError, EOFError, SyntaxError, LookupError) as error:
        raise UnusableImage(f"unreadable ({' '.join(str(error).split())})") from error


def _load_small(image: Image.Image) -> None:
    """Decodes every coefficient of a JPEG, so that a truncated one fails, but only the pixels that
    the grid needs, in half the time.
    """
    # libjpeg cannot upsample the colors of a few rare kinds, and in gray it would not try
    known_sampling = JpegImagePlugin.get_sampling(image) != -1
    image.draft("L" if known_sampling else "RGB", DRAFT_SIZE)
    image.load()


def encode_pixels(pixels: np.ndarray, max_image_side: int | None) -> EncodedImage:
    """Encodes uncompressed pixels as a JPEG of quality 100 without chroma subsampling.

    Args:
        pixels: uint8 [height, width, 3], or [height, width] in gray.
        max_image_side: See `decode_image`.

    Raises:
        UnusableImage: A side is longer than `MAX_JPEG_SIDE`.
    """
    return _encode(
        Image.fromarray(pixels).convert("RGB"), max_image_side, quality=100, subsampling=0
    )


def gray_grid(image: Image.Image) -> bytes:
    """Gray levels of 9 x 8 cells, the bytes of float32 [8, 9]: the input of
    `pipeline.prepare.near_duplicates.difference_hashes`.
    """
    gray = image if image.mode == "L" else image.convert("L")
    # neighbours may differ by a fraction of a gray level
    return gray.convert("F").resize(GRID, Image.Resampling.BILINEAR).tobytes()


def _encode(rgb: Image.Image, max_image_side: int | None, **options: int) -> EncodedImage:
    if max_image_side is not None and max(rgb.size) > max_image_side:
        rgb.thumbnail((max_image_side, max_image_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(rgb.size) > MAX_JPEG_SIDE:
        raise UnusableImage(
            f"a side longer than {MAX_JPEG_SIDE:,} pixels; set prepare.max_image_side"
        )
    # drop a comment of the input, which may be too long for a JPEG
    rgb.save(buffer, "JPEG", comment=b"", **{"quality": QUALITY} | options)
    return EncodedImage(buffer.getvalue(), rgb.size, gray_grid(rgb))
