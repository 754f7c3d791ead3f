"""Letterboxing: an image of any shape inside a square, and boxes there and back. Without torch, so
that the runtime of exports sees the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from kdeov.data.images import to_rgb
from kdeov.errors import ConfigError

GRAY = 114
"""Value of the margins, as in YOLO."""


@dataclass(frozen=True)
class Letterbox:
    """An image scaled to fit into a square, in its middle, with gray margins.

    Attributes:
        side: Of the square, pixels.
        size: Width and height of the image, pixels.
        inner: Width and height of the scaled image.
        offset: Left and top of the scaled image in the square.
    """

    side: int
    size: tuple[int, int]
    inner: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def fit(cls, size: tuple[int, int], side: int) -> Letterbox:
        """The letterbox of an image of `size` (width, height) in a square of `side` pixels.

        Raises:
            ConfigError: A side is not positive.
        """
        width, height = size
        if min(width, height, side) < 1:
            raise ConfigError(
                f"an image of {width} x {height} in a square of {side}; give sizes > 0"
            )
        scale = side / max(size)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        # of an odd margin, the smaller half is above or left
        offset = ((side - inner[0]) // 2, (side - inner[1]) // 2)
        return cls(side, (width, height), inner, offset)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square a pixel of the image, across and down."""
        return self.inner[0] / self.size[0], self.inner[1] / self.size[1]

    def pixels(self, image: Image.Image, interpolation: str = "bicubic") -> np.ndarray:
        """The square, uint8 [3, side, side].

        Args:
            image: Of any mode (see `to_rgb`), of the size that the letterbox is for.
            interpolation: Pillow's name of the filter; antialiased.
        """
        image = to_rgb(image)
        if image.size != self.inner:
            image = image.resize(self.inner, Image.Resampling[interpolation.upper()])
        square = np.full((3, self.side, self.side), GRAY, dtype=np.uint8)
        left, top = self.offset
        square[:, top : top + self.inner[1], left : left + self.inner[0]] = np.asarray(
            image, dtype=np.uint8
        ).transpose(2, 0, 1)
        return square

    def to_square(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] in pixels of the image to pixels of the square."""
        return np.asarray(boxes) * (*self.scale, *self.scale) + (*self.offset, *self.offset)

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] in pixels of the square to pixels of the image, clipped to it."""
        back = (np.asarray(boxes) - (*self.offset, *self.offset)) / (*self.scale, *self.scale)
        return np.clip(back, 0, (*self.size, *self.size))
