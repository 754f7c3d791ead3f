"""The box head: a light neck over a trunk's feature levels, and boxes with an objectness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.models.yolo import import_ultralytics

WIDTHS = (64, 128, 256)
"""Channels of the neck's levels, finest first; those of YOLO26n."""
BOX_WIDTH = 16
SIDE_BIAS, OBJECT_PRIOR = 2.0, 0.01  # before training: distances in cells, and the objectness


class Anchors(NamedTuple):
    """The locations of all levels, finest level first, row by row.

    Attributes:
        points: [N, 2], x and y of their centers in pixels of the network's input.
        strides: [N], pixels.
    """

    points: Tensor
    strides: Tensor


def make_anchors(levels: Sequence[Tensor], strides: Sequence[int]) -> Anchors:
    """The anchors of feature levels [B, C, h, w]; they depend on the sizes of the levels alone."""
    points, sizes = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=level.device, dtype=level.dtype) + 0.5,
            torch.arange(width, device=level.device, dtype=level.dtype) + 0.5,
            indexing="ij",
        )
        points.append(torch.stack([x, y], dim=-1).reshape(-1, 2) * stride)
        sizes.append(level.new_full((height * width,), float(stride)))
    return Anchors(torch.cat(points), torch.cat(sizes))


class BoxNeck(nn.Module):
    """A feature pyramid and a path back down its levels, with the blocks of YOLO26n (Ultralytics,
    AGPL-3.0); FPN: arXiv:1612.03144, PAN: arXiv:1803.01534.

    Args:
        channels: Channels of the feature levels, finest first, each with half the sides of the one
            before.
        widths: Channels of the neck's levels.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        modules = import_ultralytics("nn.modules")
        above = [*widths[1:-1], channels[-1]] if len(channels) > 1 else []
        self.up = nn.ModuleList(
            modules.C3k2(c + u, w)
            for c, u, w in zip(channels[:-1], above, widths[:-1], strict=True)
        )
        self.down = nn.ModuleList(modules.DWConv(w, w, 3, 2) for w in widths[:-1])
        sides = [*widths[1:-1], channels[-1]] if len(channels) > 1 else []
        self.join = nn.ModuleList(
            modules.C3k2(d + c, w) for d, c, w in zip(widths[:-1], sides, widths[1:], strict=True)
        )
        self.single = modules.C3k2(channels[0], widths[0]) if len(channels) == 1 else None

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Feature levels [B, C, h, w] to as many levels of the same sizes."""
        if self.single is not None:
            return [self.single(features[0])]
        levels = [features[-1]]
        for block, feature in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            wider = F.interpolate(levels[0], scale_factor=2.0, mode="nearest")
            levels.insert(0, block(torch.cat([wider, feature], dim=1)))
        result = [levels[0]]
        for down, block, level in zip(self.down, self.join, levels[1:], strict=True):
            result.append(block(torch.cat([down(result[-1]), level], dim=1)))
        return result


class BoxHead(nn.Module):
    """Neck and one-class head: a box and an objectness for each location of each level.

    The distances from a location to the four sides are predicted directly, without a distribution
    (`reg_max` = 1 of YOLO26), and are positive. The objectness is the quality of the box: the
    expected overlap (IoU) with the object (OLN, Kim et al., 2022, arXiv:2108.06753), which objects
    of classes without boxes have as well.

    Args:
        channels: Channels of the trunk's feature levels, finest first.
        strides: Strides of these levels, pixels.
        widths: Channels of the neck's levels; None takes the last of `WIDTHS`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        modules = import_ultralytics("nn.modules")
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.widths = tuple(widths or WIDTHS[-len(self.channels) :])
        self.neck = BoxNeck(self.channels, self.widths)
        width = self.widths[0]
        self.sides = nn.ModuleList(
            nn.Sequential(
                modules.Conv(w, BOX_WIDTH, 3),
                modules.Conv(BOX_WIDTH, BOX_WIDTH, 3),
                nn.Conv2d(BOX_WIDTH, 4, 1),
            )
            for w in self.widths
        )
        self.quality = nn.ModuleList(
            nn.Sequential(
                modules.DWConv(w, w, 3),
                modules.Conv(w, width, 1),
                modules.DWConv(width, width, 3),
                modules.Conv(width, width, 1),
                nn.Conv2d(width, 1, 1),
            )
            for w in self.widths
        )
        for sides, quality in zip(self.sides, self.quality, strict=True):
            nn.init.constant_(sides[-1].bias, SIDE_BIAS)  # type: ignore[index, arg-type]
            prior = math.log(OBJECT_PRIOR / (1 - OBJECT_PRIOR))
            nn.init.constant_(quality[-1].bias, prior)  # type: ignore[index, arg-type]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # as ultralytics sets them for a detector
                module.eps, module.momentum = 1e-3, 0.03

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature levels [B, C, h, w] to boxes [B, N, 4], left, top, right, bottom in pixels of
        the network's input, and logits of the objectness [B, N]; in the order of `make_anchors`.
        """
        levels = self.neck(features)
        anchors = make_anchors(levels, self.strides)
        sides = _rows([head(x) for head, x in zip(self.sides, levels, strict=True)])
        logits = _rows([head(x) for head, x in zip(self.quality, levels, strict=True)])
        return boxes_of(F.softplus(sides), anchors), logits.squeeze(-1)


def boxes_of(distances: Tensor, anchors: Anchors) -> Tensor:
    """Distances [B, N, 4] from each anchor to left, top, right and bottom, in strides, to boxes
    [B, N, 4] in pixels.
    """
    pixels = distances * anchors.strides[:, None]
    first = anchors.points - pixels[..., :2]
    return torch.cat([first, anchors.points + pixels[..., 2:]], dim=-1)


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, C, h, w] of all levels as [B, N, C]."""
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
