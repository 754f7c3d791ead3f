"""Views: the crops, flips and color changes of an image that teacher and student both see.

A view is drawn from (seed, key, number) alone, so any process draws the same one. It is nine small
integers, stored beside the teacher's embedding of it (dataset reinforcement, Faghri et al., 2023,
arXiv:2303.08983). View 0 is always the plain centred square that evaluation uses.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np

VIEW_FIELDS = 9  # integers per view


@dataclass(frozen=True)
class View:
    """One augmentation of an image, as integers.

    Attributes:
        left, top, width, height: The crop, in pixels of the stored image.
        flip: 1 mirrors left and right.
        brightness, contrast, saturation: Per cent; 100 changes nothing.
        blur: Standard deviation of the Gaussian, thousandths of the output's side.
    """

    left: int
    top: int
    width: int
    height: int
    flip: int = 0
    brightness: int = 100
    contrast: int = 100
    saturation: int = 100
    blur: int = 0

    def to_ints(self) -> list[int]:
        """The fields in order, so that `View(*view.to_ints()) == view`."""
        return list(astuple(self))


@dataclass(frozen=True)
class ViewPlan:
    """The distribution of views.

    Attributes:
        count: Views per image, view 0 included.
        seed: Seed of the views.
        crop_scale_min: Smallest fraction of the image's area that a crop covers.
        color_jitter: Largest change of brightness, contrast and saturation, as a fraction.
        blur_prob: Probability that a view is blurred.
    """

    count: int = 1
    seed: int = 0
    crop_scale_min: float = 0.5
    color_jitter: float = 0.2
    blur_prob: float = 0.2

    def draw(self, key: str, number: int, size: tuple[int, int]) -> View:
        """Draws one view.

        Args:
            key: Key of the image.
            number: Number of the view; 0 is `center_view`.
            size: Width and height of the image, pixels.
        """
        if number == 0:
            return center_view(size)
        digest = hashlib.sha256(f"{self.seed}/{key}/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        left, top, width, height = _random_crop(rng, size, self.crop_scale_min)
        flip = int(rng.random() < 0.5)
        brightness, contrast, saturation = (
            round(100 * (1 + rng.uniform(-self.color_jitter, self.color_jitter))) for _ in range(3)
        )
        blur = int(rng.integers(2, 12)) if rng.random() < self.blur_prob else 0
        return View(left, top, width, height, flip, brightness, contrast, saturation, blur)

    def draw_all(self, key: str, size: tuple[int, int]) -> list[View]:
        """Draws all `count` views of an image, in order."""
        return [self.draw(key, number, size) for number in range(self.count)]


def center_view(size: tuple[int, int]) -> View:
    """The largest centred square of an image of `size` (width, height), pixels."""
    side = min(size)
    return View((size[0] - side) // 2, (size[1] - side) // 2, side, side)


def view_of_epoch(key: str, epoch: int, count: int) -> int:
    """Number of the view that an epoch shows, (epoch + hash(key)) mod count: all in turn."""
    return (epoch + int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")) % count


def views_from_ints(rows: Iterable[Iterable[int]]) -> list[View]:
    """Views from rows of `VIEW_FIELDS` stored integers."""
    return [View(*map(int, row)) for row in rows]


def _random_crop(
    rng: np.random.Generator, size: tuple[int, int], crop_scale_min: float
) -> tuple[int, int, int, int]:
    """A crop of random area and aspect ratio (3/4 to 4/3), as in Inception training (Szegedy et
    al., 2014, arXiv:1409.4842); the centred square after ten misses.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(crop_scale_min, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, w, h
    view = center_view(size)
    return view.left, view.top, view.width, view.height
