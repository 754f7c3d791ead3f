"""Images as callers have them, to the pixels of an exported image tower."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdeov.data.images import CHANNELS, image_of_array
from kdeov.data.square import center_square
from kdeov.errors import ConfigError, DataError, KdeovError, first_line, one_line
from kdeov.weights.folder import user_path

OneImage = str | os.PathLike[str] | Image.Image | np.ndarray
Images = OneImage | Iterable[OneImage]
T = TypeVar("T")

ACCEPTED = "give paths, PIL images, or uint8 or uint16 arrays [H, W], [H, W, C] or [B, H, W, 3]"
# Pillow decodes these itself or with a library; others, such as EPS, it passes to a program
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")


def pixel_batches(
    images: Images, size: int, interpolation: str, stride: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Reads images a batch at a time, so that memory does not grow with their number.

    Args:
        images: One image, or several in order: paths, PIL images of any mode, and arrays.
        size: Side of the centred square of an image, pixels.
        interpolation: Pillow's name of the filter.
        stride: See `pad_to_stride`.
        batch_size: Images of a batch.

    Yields:
        uint8 [B, 3, H, W], H and W being `size` up to the next multiple of `stride`.

    Raises:
        ConfigError: What is no image, or no image at all.
        DataError: An image cannot be read; the error names it.
    """
    batch: list[np.ndarray] = []
    for square in converted_images(images, _centering(size, interpolation)):
        batch.append(square)
        if len(batch) == batch_size:
            yield pad_to_stride(np.stack(batch), stride)
            batch = []
    if batch:
        yield pad_to_stride(np.stack(batch), stride)


def converted_images(images: Images, convert: Callable[[Image.Image], T]) -> Iterator[T]:
    """Reads and converts images one at a time.

    Args:
        images: See `pixel_batches`.
        convert: Called with an image of any mode (see `kdeov.data.images.to_rgb`).

    Raises:
        ConfigError: What is no image, or no image at all.
        DataError: An image cannot be read; the error names it.
    """
    none = True
    for number, image in enumerate(_listed(images)):
        none = False
        yield _converted(image, f"image {number}", convert)
    if none:
        raise ConfigError(f"no image was given; {ACCEPTED}")


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Reads a whole image from a file.

    Raises:
        DataError: It cannot be read; the error names it.
    """
    path = user_path(path)
    with _reading(one_line(str(path))), _open(path) as opened:
        opened.load()
        return opened


def square_pixels(image: OneImage, size: int, interpolation: str) -> np.ndarray:
    """The centred square of one image, uint8 [3, size, size].

    Raises:
        ConfigError: What is no image.
        DataError: It cannot be read; the error names it.
    """
    return converted_image(image, _centering(size, interpolation))


def converted_image(image: OneImage, convert: Callable[[Image.Image], T]) -> T:
    """Reads and converts one image; see `converted_images`."""
    return _converted(image, "the image", convert)


def pad_to_stride(pixels: np.ndarray, stride: int) -> np.ndarray:
    """Repeats the right and lower edges of [..., H, W] until both sides are multiples of `stride`,
    as the backbone in PyTorch does.
    """
    down, right = -pixels.shape[-2] % stride, -pixels.shape[-1] % stride
    if not (down or right):
        return pixels
    edges = [(0, 0)] * (pixels.ndim - 2) + [(0, down), (0, right)]
    return np.pad(pixels, edges, mode="edge")


def _listed(images: Any) -> Iterable[Any]:
    """A single image or an iterable of images as an iterable."""
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, bytes | Mapping | Set) or not isinstance(images, Iterable):
        # sets have no order
        raise ConfigError(f"images are of type {type(images).__name__}; {ACCEPTED}")
    return images


def _centering(size: int, interpolation: str) -> Callable[[Image.Image], np.ndarray]:
    """The centred square of an image, uint8 [3, size, size]."""
    return partial(center_square, size=size, interpolation=interpolation)


def _converted(image: Any, where: str, convert: Callable[[Image.Image], T]) -> T:
    if isinstance(image, str | os.PathLike):
        path = user_path(image)
        with _reading(one_line(str(path))), _open(path) as opened:
            return convert(opened)
    if isinstance(image, np.ndarray):
        _require_pixels(image, where)
        with _reading(where):
            image = image_of_array(image)
    if not isinstance(image, Image.Image):
        raise ConfigError(f"{where} is of type {type(image).__name__}; {ACCEPTED}")
    if not all(image.size):
        raise ConfigError(f"{where} has {image.width} x {image.height} pixels; leave it out")
    with _reading(where):
        return convert(image)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise DataError("no such file" if not path.exists() else "not a file")
    heif = path.suffix.lower() in HEIF_SUFFIXES
    return _open_heif(path) if heif else Image.open(path, formats=FORMATS)


def _open_heif(path: Path) -> Image.Image:
    """The main image of a HEIC file, upright."""
    try:
        import pillow_heif  # an extra
    except ImportError as error:
        raise DataError(
            "HEIC needs a package: pip install 'kdeov[heif]'; or save it as JPEG"
        ) from error
    file = pillow_heif.open_heif(path)
    if file.size[0] * file.size[1] > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):  # as Pillow's
        raise DataError(f"too many pixels ({file.size[0]} x {file.size[1]}); reduce it")
    return file.to_pillow()


def _require_pixels(values: np.ndarray, where: str) -> None:
    shape = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in CHANNELS)
    if values.dtype not in (np.uint8, np.uint16) or not shape or not values.size:
        raise ConfigError(f"{where} of shape {values.shape} and dtype {values.dtype}; {ACCEPTED}")


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Errors of reading an image as one line that names it."""
    try:
        yield
    except KdeovError as error:
        raise DataError(f"{where}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: not an image of {', '.join(FORMATS)}; convert it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: too many pixels; reduce it") from error
    # Pillow reads files when it must, and lets errors of its parsers through
    except (
        OSError,
        SyntaxError,
        ValueError,
        RuntimeError,
        EOFError,
        LookupError,
        struct.error,
    ) as error:
        raise DataError(f"{where}: unreadable ({first_line(error)}); get the file again") from error
