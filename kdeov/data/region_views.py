"""Regions: smaller crops of an image whose teacher embeddings supervise parts of its dense map.

A region is a `View` without flip and without changes of color. It follows from (seed, key, number)
and the annotated objects of the image alone, so any process draws the same one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdeov.data.views import View, center_view

KINDS = ("grid", "random", "objects")
RATIO = 4 / 3  # of the sides of a random region, at most
MARGIN_SPREAD = 0.5  # an object's margin lies within this share of the plan's, up and down


@dataclass(frozen=True)
class RegionPlan:
    """The distribution of regions.

    Attributes:
        count: Regions per image; 0 for none.
        seed: Seed of the regions.
        kind: `grid`, the cells of n x n grids, as in CLIPSelf (Wu et al., 2023, arXiv:2310.01403);
            `random`, of random place, area and aspect ratio; or `objects`, the annotated objects
            with a margin, then random ones.
        min_area: Smallest share of the image's area; annotated objects may be smaller.
        max_area: Largest share of the image's area.
        margin: Mean margin around an object on each side, as a fraction of its own side.
        classes: Names of the objects that may be shown; others never are.
    """

    count: int = 0
    seed: int = 0
    kind: str = "random"
    min_area: float = 1 / 36
    max_area: float = 0.5
    margin: float = 0.2
    classes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegionPlan:
        """Reads the fields from JSON types."""
        return cls(**{**values, "classes": tuple(values["classes"])})

    def draw(
        self,
        key: str,
        number: int,
        size: tuple[int, int],
        objects: Sequence[Mapping[str, Any]] = (),
    ) -> View:
        """Draws one region.

        Args:
            key: Key of the image.
            number: Number of the region, from 0.
            size: Width and height of the image, pixels.
            objects: The annotated objects of the image: `name`, `box`, and `crowd` where it is one.
        """
        rng = self._rng(key, number)
        if self.kind == "grid":
            return self._cell(self._rng(key, "cells"), number, size)
        if self.kind == "objects":
            shown = [o for o in objects if o["name"] in self.classes and not o.get("crowd")]
            if number < len(shown):
                order = self._rng(key, "objects").permutation(len(shown))
                return self._around(rng, shown[order[number]]["box"], size)
        return self._random(rng, size)

    def draw_all(
        self, key: str, size: tuple[int, int], objects: Sequence[Mapping[str, Any]] = ()
    ) -> list[View]:
        """Draws all `count` regions of an image, in order."""
        return [self.draw(key, number, size, objects) for number in range(self.count)]

    def _rng(self, key: str, name: int | str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}/{key}/region/{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def _cell(self, rng: np.random.Generator, number: int, size: tuple[int, int]) -> View:
        """A cell of one of the grids whose cells have an area in the range; all cells in turn."""
        sides = [n for n in range(1, 65) if self.min_area <= 1 / n**2 <= self.max_area]
        cells = [(n, row, col) for n in sides for row in range(n) for col in range(n)]
        if not cells:
            return self._random(self._rng("", number), size)
        n, row, column = cells[int(rng.permutation(len(cells))[number % len(cells)])]
        left, right = (round(size[0] * c / n) for c in (column, column + 1))
        top, bottom = (round(size[1] * r / n) for r in (row, row + 1))
        return _view(left, top, right, bottom, size)

    def _random(self, rng: np.random.Generator, size: tuple[int, int]) -> View:
        """A region of log-uniform area; the centred square after ten misses."""
        width, height = size
        low, high = math.log(self.min_area), math.log(self.max_area)
        for _ in range(10):
            area = width * height * math.exp(rng.uniform(low, high))
            ratio = math.exp(rng.uniform(-math.log(RATIO), math.log(RATIO)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return View(left, top, w, h)
        return center_view(size)

    def _around(
        self, rng: np.random.Generator, box: Sequence[float], size: tuple[int, int]
    ) -> View:
        """An object with a margin, within the image."""
        left, top, right, bottom = box
        low, high = (self.margin * (1 + sign * MARGIN_SPREAD) for sign in (-1, 1))
        dx, dy = rng.uniform(low, high) * (right - left), rng.uniform(low, high) * (bottom - top)
        outer = (left - dx, top - dy, right + dx, bottom + dy)
        left, top, right, bottom = (round(value) for value in outer)
        return _view(left, top, right, bottom, size)


def _view(left: int, top: int, right: int, bottom: int, size: tuple[int, int]) -> View:
    """A crop of at least one pixel within an image."""
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    right, bottom = min(max(right, left + 1), size[0]), min(max(bottom, top + 1), size[1])
    return View(left, top, right - left, bottom - top)


def boxes_in_view(regions: Sequence[View], view: View, side: int) -> np.ndarray:
    """Where regions lie in a view of the image that is `side` pixels wide and high.

    Args:
        regions: Regions of the image.
        view: The view that is shown.
        side: Side of its pixels.

    Returns:
        float32 [R, 4], left, top, right and bottom; zeros for regions that the view cuts.
    """
    crops = np.array([r.to_ints()[:4] for r in regions], dtype=np.float64).reshape(-1, 4)
    low, high = crops[:, :2], crops[:, :2] + crops[:, 2:]
    origin, extent = np.array([view.left, view.top]), np.array([view.width, view.height])
    inside = ((low >= origin) & (high <= origin + extent)).all(axis=1)
    boxes = np.concatenate([(low - origin) / extent, (high - origin) / extent], axis=1) * side
    if view.flip:
        boxes[:, [0, 2]] = side - boxes[:, [2, 0]]
    return np.where(inside[:, None], boxes, 0).astype(np.float32)
