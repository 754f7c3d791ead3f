"""Mosaics of the images of a micro-batch: each tile is a region whose embedding is cached already
(CLIM, Wu et al., 2023, arXiv:2312.11376).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.weights.device import upload

GRIDS = (2, 3)  # tiles a side
MIN_TILE = 16  # pixels, of the mean tile: smaller ones show too little
MIN_IMAGES = GRIDS[0] ** 2  # of a micro-batch that a mosaic can be made of
CUT_SPREAD = 0.2  # how far a cut lies from its place in an even grid, as a share of a tile's side
MAX_GAP = 0.15  # share of a tile's side that is left empty


class Mosaic(NamedTuple):
    """Mosaics of one layout.

    Attributes:
        pixels: [M, 3, S, S].
        boxes: [M, T, 4], left, top, right and bottom of each tile in pixels.
        rows: [M, T], which image of the micro-batch each tile shows.
    """

    pixels: Tensor
    boxes: Tensor
    rows: Tensor


def make_mosaics(pixels: Tensor, seed: Sequence[int]) -> Mosaic:
    """Mosaics of n x n shrunk images, as many as the micro-batch fills, in random order.

    Cuts and gaps are random and equal for all mosaics of the micro-batch. Gaps have the value 0,
    the mean color of normalised pixels.

    Args:
        pixels: [B, 3, S, S], normalised, at least `MIN_IMAGES`.
        seed: Numbers from which the layout and the order are drawn.
    """
    count, _, side, _ = pixels.shape
    rng = np.random.default_rng(seed)
    fitting = [n for n in GRIDS if n * n <= count and side // n >= MIN_TILE]
    n = int(rng.choice(fitting or GRIDS[:1]))
    tiles, mosaics = n * n, count // (n * n)
    rows = torch.from_numpy(rng.permutation(count)[: mosaics * tiles].reshape(mosaics, tiles))
    spans = [[_span(rng, low, high) for low, high in _cells(rng, n, side)] for _ in range(2)]
    places = upload(rows, pixels.device)
    canvas = torch.zeros_like(pixels[:mosaics])
    boxes = []
    for row, (top, bottom) in enumerate(spans[0]):
        for column, (left, right) in enumerate(spans[1]):
            shown = pixels[places[:, row * n + column]]
            canvas[:, :, top:bottom, left:right] = F.interpolate(
                shown, (bottom - top, right - left), mode="bilinear", antialias=True
            )
            boxes.append([left, top, right, bottom])
    box = upload(torch.tensor(boxes, dtype=torch.float32), pixels.device)
    return Mosaic(canvas, box.expand(mosaics, tiles, 4), places)


def _cells(rng: np.random.Generator, n: int, side: int) -> list[tuple[int, int]]:
    """The cells of one axis, in pixels."""
    cuts = [
        round(side / n * (place + rng.uniform(-CUT_SPREAD, CUT_SPREAD))) for place in range(1, n)
    ]
    return list(zip([0, *cuts], [*cuts, side], strict=True))


def _span(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """The part of a cell that its tile fills."""
    gap = int((high - low) * rng.uniform(0, MAX_GAP))
    before = int(rng.integers(gap + 1))
    return low + before, high - (gap - before)
