"""Embeddings of regions: exact means of the dense map over boxes, from summed-area tables (Crow,
1984, "Summed-area tables for texture mapping").

The dense map repeats the cells of every level (nearest neighbour), and the linear map into the
embedding space commutes with means. So the mean over a box is taken of each level at its own
resolution, and the linear map is applied once a region instead of once a location.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_CELLS = 1 / 16  # of a level: smaller sides of a box grow to it, since single precision ends
EDGE = 1e-3  # pixels from an edge within which a box ends at the edge


def region_means(levels: Sequence[Tensor], boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Means over boxes of maps that are constant within each cell.

    Every operation is one of cumulative sums, look-ups and products, which all exporters have.

    Args:
        levels: Hidden features [B, C, h, w] of each level.
        boxes: [B, R, 4], left, top, right and bottom in pixels of the padded input, which is
            `stride` times as large as its map. Where a side is shorter than `MIN_CELLS` cells of
            a level, the mean of that level is of the box grown to them around its centre.
        strides: Pixels a cell, of each level.

    Returns:
        [B, R, sum of C], the dtype of the levels. Inside, at least single precision.
    """
    means = [_level(x, boxes / stride) for x, stride in zip(levels, strides, strict=True)]
    return torch.cat(means, dim=2)


def _level(values: Tensor, boxes: Tensor) -> Tensor:
    """The means [B, R, C] of a map [B, C, h, w] over boxes [B, R, 4] in cells."""
    batch, channels, height, width = values.shape
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    wide = wide.permute(0, 2, 3, 1)
    mean = wide.mean(dim=(1, 2), keepdim=True)
    # without the mean, sums stay small, and so do their rounding errors
    table = (wide - mean).cumsum(1).cumsum(2)
    table = F.pad(table, (0, 0, 1, 0, 1, 0)).reshape(-1, channels)
    left, top, right, bottom = boxes.to(wide.dtype).unbind(2)
    column, x_weight = _ends(left, right, width)
    row, y_weight = _ends(top, bottom, height)
    first = torch.arange(batch, device=values.device)[:, None, None, None] * (height + 1)
    places = (first + row[..., :, None]) * (width + 1) + column[..., None, :]  # [B, R, 4, 4]
    corners = table.index_select(0, places.flatten()).view(batch, -1, 16, channels)
    weights = (y_weight[..., :, None] * x_weight[..., None, :]).flatten(2)
    # no product of matrices, which autocast would round to half precision
    means = (weights[..., None] * corners).sum(2) + mean[:, 0]
    return means.to(values.dtype)


def _ends(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where and how a summed table is read along one axis.

    Args:
        low: [B, R], beginnings of the boxes in cells.
        high: [B, R], their ends.
        size: Cells of the axis.

    Returns:
        Rows [B, R, 4] of the table, two neighbours for each end, and their weights, whose product
        with the table is the mean over the axis.
    """
    extent = (high - low).clamp(min=MIN_CELLS).clamp(max=float(size))
    low = ((low + high - extent) / 2).clamp(min=0.0)
    low = torch.minimum(low, size - extent)
    ends = torch.stack([low, low + extent], dim=2)
    cells = ends.detach().floor().clamp(0.0, float(size - 1))
    part = ends - cells
    sign = _filled((-1, 1), low)
    weights = torch.stack([1 - part, part], dim=3) * sign[:, None] / extent[..., None, None]
    number = cells.long()
    return torch.stack([number, number + 1], dim=3).flatten(2), weights.flatten(2)


def extend_to_padding(boxes: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Boxes of an image in pixels of its padded input: those that end at the right or lower edge
    include the pixels that repeat that edge.

    Args:
        boxes: [B, R, 4], in pixels of the image.
        size: Width and height of the image.
        padded: Width and height of the padded input.
    """
    last = torch.arange(4, device=boxes.device) > 1
    beyond = boxes > _filled((*size, *size), boxes) - EDGE
    return torch.where(last & beyond, _filled((0, 0, *padded), boxes), boxes)


def _filled(values: Sequence[float], like: Tensor) -> Tensor:
    """Values as a tensor with the dtype and device of another one. They are filled in there: a GPU
    would wait, until it is idle, for a copy from the host.
    """
    return torch.cat([like.new_full((1,), value) for value in values])
