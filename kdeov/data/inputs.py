"""Images as callers have them, in any of the usual forms, to the normalized pixels of a tower."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Set
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdeov.data.images import CHANNELS, image_of_array
from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, DataError, KdeovError

OneImage = Image.Image | np.ndarray | Tensor
Images = OneImage | Iterable[OneImage]

logger = logging.getLogger(__name__)

MAX_LEVEL = 20.0  # far above any normalized pixel: those of CLIP lie between -1.8 and 2.2
ACCEPTED = (
    "give PIL images, uint8 arrays [H, W, 3] or tensors [3, H, W], or normalized float tensors "
    "[B, 3, H, W]"
)


def to_pixels(images: Images, transform: ImageTransform) -> Tensor:
    """Normalized pixels of one or more images.

    PIL images and arrays of integers are read by `kdeov.data.images.to_rgb`, cropped, resized and
    normalized by the transform. Float arrays are normalized already and keep their size.

    Args:
        images: PIL images, uint8 arrays ([H, W, 3], or [H, W] in gray) or tensors ([3, H, W]), or
            float arrays and tensors [3, H, W]: one, several in a list or another iterable, or a
            batch in one array. Alpha channels are taken; either order of the axes of integers is
            taken where the shape tells it.
        transform: The transform of the tower.

    Returns:
        [B, 3, H, W], on the CPU where it was read from integers; float32, or the dtype of floats
        that were given.

    Raises:
        ConfigError: Anything else, no image, float images of several sizes, or floats that are
            not normalized.
        DataError: An image cannot be read, or a float is not finite.
    """
    if isinstance(images, np.ndarray | Tensor):
        _require_numbers(images, "images")
        if _is_normalized(images):
            return _normalized(images, "images", batch=True)
        listed: list[Any] = list(images) if images.ndim == 4 else [images]
    else:
        listed = _listed(images)
    if not listed:
        raise ConfigError(f"no image was given; {ACCEPTED}")
    pixels = [_one(image, number, transform) for number, image in enumerate(listed)]
    sizes = {tuple(image.shape[1:]) for image in pixels}
    if len(sizes) > 1:
        raise ConfigError(
            f"normalized images of {len(sizes)} sizes, such as {_some(sizes)}; give one size, or "
            "images that are not normalized"
        )
    return torch.stack(pixels)


def listed_images(images: Images) -> list[Any]:
    """The images of a batch, one by one; no copy of an array.

    Raises:
        ConfigError: They are no images.
    """
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    return _listed(images)


def is_normalized(images: object) -> bool:
    """Whether `to_pixels` takes any of these images as normalized already."""
    if isinstance(images, np.ndarray | Tensor):
        return _is_normalized(images)
    return isinstance(images, list | tuple) and any(is_normalized(image) for image in images)


def _listed(images: Any) -> list[Any]:
    """A single image or an iterable of images as a list."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, str | bytes | os.PathLike):
        kind = "bytes" if isinstance(images, bytes) else f"the path {str(images)!r}"
        raise ConfigError(f"images are {kind}; open them with PIL.Image.open")
    if isinstance(images, Mapping):
        keys = ", ".join(map(repr, list(images)[:5]))
        raise ConfigError(f"images are a mapping with the keys {keys}; {ACCEPTED}")
    if isinstance(images, Set) or not isinstance(images, Iterable):
        # sets have no order; a data set without `__iter__` has no known end
        raise ConfigError(f"images are of type {type(images).__name__}; {ACCEPTED}")
    return list(images)


def _one(image: Any, number: int, transform: ImageTransform) -> Tensor:
    """One image as normalized pixels [3, H, W]."""
    where = f"image {number}"
    if isinstance(image, str | os.PathLike):
        raise ConfigError(f"{where} is the path {str(image)!r}; open it with PIL.Image.open")
    if isinstance(image, np.ndarray | Tensor):
        _require_numbers(image, where)
        if _is_normalized(image):
            return _normalized(image, where, batch=False)
        image = _from_integers(image, where)
    if not isinstance(image, Image.Image):
        raise ConfigError(f"{where} is of type {type(image).__name__}; {ACCEPTED}")
    if not all(image.size):
        raise ConfigError(f"{where} has {image.width} x {image.height} pixels; leave it out")
    try:
        return transform(image)
    except KdeovError as error:
        raise DataError(f"{where}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads files when it must
        raise DataError(f"{where}: unreadable ({error}); get the file again") from error


def _is_normalized(values: np.ndarray | Tensor) -> bool:
    if isinstance(values, Tensor):
        return values.is_floating_point()
    return values.dtype.kind == "f"


def _require_numbers(values: np.ndarray | Tensor, where: str) -> None:
    numbers = (
        values.dtype != torch.bool
        and not values.is_complex()
        and values.layout is torch.strided
        and not (values.is_meta or values.is_quantized or values.is_nested)
        if isinstance(values, Tensor)
        else values.dtype.kind in "uif"
    )
    if not numbers:
        layout = f" and layout {values.layout}" if isinstance(values, Tensor) else ""
        raise ConfigError(f"{where} of dtype {values.dtype}{layout}; {ACCEPTED}")
    if 0 in values.shape:
        raise ConfigError(f"{where} of shape {tuple(values.shape)} hold no pixel; {ACCEPTED}")


def _normalized(values: np.ndarray | Tensor, where: str, batch: bool) -> Tensor:
    """Floats as a tensor: [B, 3, H, W] if `batch`, otherwise [3, H, W]."""
    if isinstance(values, np.ndarray):
        double = values.dtype.itemsize >= 8
        values = torch.from_numpy(
            np.ascontiguousarray(values, dtype=np.float64 if double else np.float32)
        )
    if values.ndim not in ((3, 4) if batch else (3,)) or values.shape[-3] != 3:
        raise ConfigError(
            f"{where} of shape {tuple(values.shape)} and dtype {values.dtype}; give normalized "
            f"floats as {'[B, 3, H, W] or ' if batch else ''}[3, H, W], or pixels as uint8"
        )
    _require_levels(values, where)
    return values[None] if batch and values.ndim == 3 else values


def _require_levels(values: Tensor, where: str) -> None:
    """Refuses floats that no normalization gives, and warns of those that seem to have none."""
    if torch.compiler.is_compiling():  # a graph does not look at values
        return
    low, high = (level.item() for level in values.detach().float().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{where}: a pixel is not finite; leave this image out")
    if max(-low, high) > MAX_LEVEL:
        raise ConfigError(
            f"{where}: floats from {low:g} to {high:g} are not normalized; give pixels of 0 to "
            "255 as uint8"
        )
    if 0 <= low < high <= 1:
        _warn_of_shares()


@cache
def _warn_of_shares() -> None:
    logger.warning(
        "float pixels lie between 0 and 1, as if they were not normalized, and are taken as they "
        "are; give PIL images or uint8 pixels, or normalize them with the model's `transform`"
    )


def _from_integers(values: np.ndarray | Tensor, where: str) -> Image.Image:
    """An image [H, W], [H, W, C] or [C, H, W]. Where both ends of the shape could be channels,
    arrays have them last and tensors first, as their libraries do.
    """
    first_is_usual = isinstance(values, Tensor)
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    if array.ndim == 3:
        places = (0, 2) if first_is_usual else (2, 0)
        place = next((p for p in places if array.shape[p] in CHANNELS), None)
        if place is not None:
            array = np.moveaxis(array, place, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise ConfigError(f"{where} of shape {tuple(values.shape)}; {ACCEPTED}")
    try:
        return image_of_array(array)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _some(sizes: set[tuple[int, ...]]) -> str:
    return " and ".join(f"{height} x {width}" for height, width in sorted(sizes)[:2])
