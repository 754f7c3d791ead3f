"""Boxes as callers have them, checked, and mapped to the square that a model sees.

A box is left, top, right and bottom in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from kdeov.data.images import CHANNELS
from kdeov.data.inputs import Images, is_normalized, listed_images, to_pixels
from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError

ROTATED = (5, 6, 7, 8)  # values of the EXIF orientation that swap width and height
FORMAT = "give left, top, right and bottom in pixels"
Boxes = Any  # numbers as numpy or torch takes them: [B, R, 4], or [R, 4] of one image
Edges = tuple[float, float, float, float]


def to_pixels_and_boxes(
    images: Images, boxes: Boxes, transform: ImageTransform
) -> tuple[Tensor, Tensor]:
    """Normalized pixels of images (see `to_pixels`), and boxes in them.

    Args:
        images: B images.
        boxes: [B, R, 4], or [R, 4] of one image; in pixels of the upright images as given. Parts
            outside of the image, or of the centred square that the transform shows, are cut off.
        transform: The transform of the tower. Images that are normalized already are shown whole.

    Returns:
        [B, 3, H, W] and float32 [B, R, 4], in pixels of the former.

    Raises:
        ConfigError: A box is outside, without an area or not a number, or the shapes do not fit;
            names the image and the box.
        DataError: An image cannot be read.
    """
    listed = listed_images(images)
    pixels = to_pixels(images if isinstance(images, np.ndarray | Tensor) else listed, transform)
    mapped = []
    for number, (image, given) in enumerate(zip(listed, _rows(boxes, len(listed)), strict=True)):
        where, size = f"image {number}", image_size(image)
        shown = (0, 0, *size) if is_normalized(image) else _center(size)
        inside = _within(check_boxes(given, size, where), shown, where)
        mapped.append(inside * (pixels.shape[-1] / (shown[2] - shown[0])))
    return pixels, torch.stack(mapped).float()


def check_boxes(boxes: Tensor, size: tuple[int, int], where: str) -> Tensor:
    """Boxes [R, 4] of an image, cut at its edges.

    Args:
        boxes: As given.
        size: Width and height of the image, pixels.
        where: Names the image in messages.

    Raises:
        ConfigError: A box is outside of the image, without an area or not a number.
    """
    width, height = size
    for number, box in enumerate(boxes.tolist()):
        left, top, right, bottom = box
        name = f"{where}, box {number}, {_text(box)},"
        if not np.isfinite(box).all():
            raise ConfigError(f"{name} is not finite; {FORMAT}")
        if right <= left or bottom <= top:
            inside = left + right <= width and top + bottom <= height
            other = ": it may be left, top, width and height" if inside and min(box[2:]) > 0 else ""
            raise ConfigError(f"{name} has no area{other}; {FORMAT}")
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise ConfigError(f"{name} is outside of {width} x {height} pixels; {FORMAT}")
    return _clip(boxes, (0, 0, width, height))


def image_size(image: Any) -> tuple[int, int]:
    """Width and height of an upright image, of any form that `to_pixels` takes."""
    if isinstance(image, Image.Image):
        width, height = image.size
        rotated = image.getexif().get(ExifTags.Base.Orientation) in ROTATED
        return (height, width) if rotated else (width, height)
    shape = tuple(image.shape)
    channels_first = is_normalized(image)
    if len(shape) == 3 and not channels_first:  # decided as `to_pixels` does
        either = isinstance(image, Tensor) or shape[2] not in CHANNELS
        channels_first = shape[0] in CHANNELS and either
    height, width = shape[-2:] if channels_first else shape[:2]
    return width, height


def _rows(boxes: Boxes, count: int) -> Tensor:
    """Boxes as float64 [B, R, 4]."""
    try:
        if isinstance(boxes, list | tuple) and boxes and isinstance(boxes[0], Tensor):
            boxes = torch.stack(list(boxes))
        given = boxes if isinstance(boxes, Tensor) else torch.from_numpy(np.asarray(boxes, float))
        rows = given.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"boxes are no numbers of one shape; give [{count}, R, 4], as many boxes for each image"
        ) from error
    if rows.ndim == 2 and count == 1:
        rows = rows[None]
    if rows.ndim != 3 or rows.shape[0] != count or rows.shape[2] != 4 or not rows.shape[1]:
        raise ConfigError(
            f"boxes of shape {tuple(rows.shape)} for {count} images; give [{count}, R, 4]"
        )
    return rows


def _center(size: tuple[int, int]) -> Edges:
    """The largest centred square, as `center_square` cuts it."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def _within(boxes: Tensor, shown: Edges, where: str) -> Tensor:
    """The parts of boxes in the shown square, in pixels from its corner."""
    cut = _clip(boxes, shown)
    empty = (cut[:, 2:] <= cut[:, :2]).any(dim=1)
    if empty.any():
        number = int(empty.nonzero()[0])
        raise ConfigError(
            f"{where}, box {number}, {_text(boxes[number].tolist())}, is outside of the centred "
            "square that the model sees; crop the image around the box"
        )
    return cut - torch.tensor([*shown[:2], *shown[:2]], dtype=cut.dtype)


def _clip(boxes: Tensor, edges: Edges) -> Tensor:
    low = torch.tensor([*edges[:2], *edges[:2]], dtype=boxes.dtype)
    high = torch.tensor([*edges[2:], *edges[2:]], dtype=boxes.dtype)
    return boxes.clamp(low, high)


def _text(box: list[float]) -> str:
    return " ".join(f"{value:g}" for value in box)
