"""Training images of a box head: letterboxed, scaled, flipped and joined to mosaics.

All of it is drawn from a generator of numbers that the caller seeds from (seed, epoch, key).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdeov.detection.letterbox import GRAY

TILES = 4
SPLIT = (0.35, 0.65)  # where a mosaic's tiles meet, as a share of its side
SCALE = (0.5, 1.4)  # of a single image, relative to its letterbox
VISIBLE = 0.4  # share of a box that must be visible for it to be learned


class BoxedImage(NamedTuple):
    """An image with its boxes.

    Attributes:
        image: RGB.
        boxes: float32 [M, 4], left, top, right, bottom in its pixels.
        crowd: bool [M], boxes inside which nothing is learned.
    """

    image: Image.Image
    boxes: np.ndarray
    crowd: np.ndarray


class BoxedPixels(NamedTuple):
    """A square input with its boxes.

    Attributes:
        pixels: uint8 [3, S, S].
        boxes: float32 [M, 4], pixels of the square.
        crowd: bool [M].
    """

    pixels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


def rng_of(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The generator of an image in an epoch."""
    digest = hashlib.sha256(f"{seed}/boxes/{epoch}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@dataclass(frozen=True)
class BoxAugmentation:
    """Turns images into training inputs.

    Attributes:
        side: Of the square, pixels.
        mosaic: Share of inputs that are mosaics of four images.
        interpolation: Pillow's name of the filter.
    """

    side: int
    mosaic: float
    interpolation: str = "bicubic"

    def draws_mosaic(self, rng: np.random.Generator) -> bool:
        """Whether the input is a mosaic; the first number that is drawn."""
        return bool(rng.random() < self.mosaic)

    def single(self, item: BoxedImage, rng: np.random.Generator) -> BoxedPixels:
        """One image, scaled, shifted and perhaps flipped."""
        scale = rng.uniform(*SCALE) * self.side / max(item.image.size)
        inner = tuple(max(1, round(side * scale)) for side in item.image.size)
        # an image that is larger than the square covers it, a smaller one lies inside
        low, high = zip(
            *((min(0, self.side - n), max(0, self.side - n)) for n in inner), strict=True
        )
        left, top = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
        canvas = _Canvas(self)
        canvas.paste(item, (inner[0], inner[1]), (left, top), bool(rng.random() < 0.5))
        return canvas.result()

    def tiled(self, items: Sequence[BoxedImage], rng: np.random.Generator) -> BoxedPixels:
        """A mosaic: each image as large as its tile allows, anywhere in the tile."""
        split = [round(rng.uniform(*SPLIT) * self.side) for _ in range(2)]
        canvas = _Canvas(self)
        for number, item in enumerate(items):
            column, row = number % 2, number // 2
            start = (split[0] * column, split[1] * row)
            room = [
                self.side - cut if place else cut
                for cut, place in zip(split, (column, row), strict=True)
            ]
            scale = min(r / n for r, n in zip(room, item.image.size, strict=True))
            inner = tuple(
                min(r, max(1, round(n * scale))) for r, n in zip(room, item.image.size, strict=True)
            )
            shift = [int(rng.integers(r - n + 1)) for r, n in zip(room, inner, strict=True)]
            place = (start[0] + shift[0], start[1] + shift[1])
            canvas.paste(item, (inner[0], inner[1]), place, bool(rng.random() < 0.5))
        return canvas.result()


class _Canvas:
    """A gray square on which images are put with their boxes."""

    def __init__(self, augmentation: BoxAugmentation) -> None:
        self.side = augmentation.side
        self.filter = Image.Resampling[augmentation.interpolation.upper()]
        self.image = Image.new("RGB", (self.side, self.side), (GRAY, GRAY, GRAY))
        self.boxes: list[np.ndarray] = []
        self.crowd: list[np.ndarray] = []

    def paste(
        self, item: BoxedImage, inner: tuple[int, int], place: tuple[int, int], flip: bool
    ) -> None:
        """Puts an image, resized to `inner`, with its left upper corner at `place`."""
        image = item.image
        scale = np.array([i / n for i, n in zip(inner, image.size, strict=True)] * 2)
        if image.size != inner:
            image = image.resize(inner, self.filter)
        boxes = item.boxes * scale
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack(
                [inner[0] - boxes[:, 2], boxes[:, 1], inner[0] - boxes[:, 0], boxes[:, 3]], axis=1
            )
        self.image.paste(image, place)
        boxes = boxes + np.array([*place, *place])
        inside = boxes.clip(0, self.side)
        share = _areas(inside) / np.maximum(_areas(boxes), 1e-9)
        kept = share > 0
        self.boxes.append(inside[kept])
        # what is left of a cut box is neither an object to learn nor background
        self.crowd.append((item.crowd | (share < VISIBLE))[kept])

    def result(self) -> BoxedPixels:
        pixels = np.asarray(self.image, dtype=np.uint8).transpose(2, 0, 1)
        boxes = np.concatenate(self.boxes).astype(np.float32)
        return BoxedPixels(np.ascontiguousarray(pixels), boxes, np.concatenate(self.crowd))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
