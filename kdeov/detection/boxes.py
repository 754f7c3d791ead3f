"""Overlaps of boxes, and which boxes of a source can be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MIN_SIDE = 1.0  # pixels of the image


def iou_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Overlaps (IoU) [B, N, M] of boxes [B, N, 4] with boxes [B, M, 4]."""
    return paired_iou(first[:, :, None], second[:, None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """The overlap (IoU) of each pair of boxes [..., 4]; 0 where both have no area."""
    corner = first[..., :2].maximum(second[..., :2])
    extent = (first[..., 2:].minimum(second[..., 2:]) - corner).clamp(min=0)
    common = extent[..., 0] * extent[..., 1]
    return common / (_area(first) + _area(second) - common).clamp(min=1e-9)


def grow(boxes: Tensor, margin: float) -> Tensor:
    """Boxes [..., 4] with a margin on each side, as a share of the box's width or height."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] - margin * sides, boxes[..., 2:] + margin * sides], dim=-1)


def usable_box(box: Any, size: tuple[int, int]) -> tuple[list[float] | None, str | None]:
    """A box of a source, clipped to its image.

    Args:
        box: Left, top, right, bottom in pixels.
        size: Width and height of the image.

    Returns:
        The clipped box, or None where it cannot be used; and the problem, or None: of a box that
        is used, `partly outside` alone. Where left, top, width and height would fit into the image
        and the given sides do not, the format is named.
    """
    if not isinstance(box, Sequence) or len(box) != 4:
        return None, "not four numbers"
    if not all(isinstance(side, int | float) and math.isfinite(side) for side in box):
        return None, "not finite"
    left, top, right, bottom = map(float, box)
    width, height = size
    if right <= left or bottom <= top:
        turned = right < left or bottom < top
        fits = right > 0 and bottom > 0 and left + right <= width and top + bottom <= height
        return None, "left, top, width, height" if turned and fits else "no area"
    clipped = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, "outside"
    if clipped[2] - clipped[0] < MIN_SIDE or clipped[3] - clipped[1] < MIN_SIDE:
        return None, "smaller than a pixel"
    outside = max(-left, -top, right - width, bottom - height) > MIN_SIDE
    return clipped, "partly outside" if outside else None


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
