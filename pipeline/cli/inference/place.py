"""A place in an image: the region around the peak of a heat map, in pixels and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from kdeov.data.images import to_rgb

FLAT = 0.03  # difference of cosines below which a peak says little
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")


@dataclass(frozen=True)
class Place:
    """The region of a heat map around its peak.

    The region holds the locations that touch the peak, directly or through one another, and whose
    cosine lies above the midpoint between the map's median and its peak. Coordinates are pixels of
    the upright image.

    Attributes:
        peak: x and y of the highest cosine.
        box: Left, top, right and bottom of the region.
        area: Share of the image that the region covers.
        cosine: At the peak.
        median: Of the map, for comparison.
    """

    peak: tuple[int, int]
    box: tuple[int, int, int, int]
    area: float
    cosine: float
    median: float
    size: tuple[int, int]

    @classmethod
    def of(cls, heatmap: np.ndarray, image: Image.Image) -> Place:
        """Finds the place.

        Args:
            heatmap: Cosines [S, S] of the centred square of the image.
            image: As it was read.
        """
        left, top, side = centered_square(image)
        row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
        cosine, median = float(heatmap[row, column]), float(np.median(heatmap))
        region = _connected(heatmap >= (cosine + median) / 2, int(row), int(column))
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        scale = side / len(heatmap)
        width, height = to_rgb(image).size
        return cls(
            peak=(int(left + (column + 0.5) * scale), int(top + (row + 0.5) * scale)),
            box=(
                int(left + columns[0] * scale), int(top + rows[0] * scale),
                int(left + (columns[-1] + 1) * scale), int(top + (rows[-1] + 1) * scale),
            ),
            area=float(region.sum() * scale**2 / (width * height)),
            cosine=cosine,
            median=median,
            size=(width, height),
        )  # fmt: skip

    def in_words(self) -> str:
        """Where the place is, in one sentence."""
        row = ROWS[min(2, 3 * self.peak[1] // self.size[1])]
        column = COLUMNS[min(2, 3 * self.peak[0] // self.size[0])]
        where = "center" if (row, column) == ("middle", "center") else f"{row} {column}"
        left, top, right, bottom = self.box
        flat = "; the map is nearly flat, so the place is uncertain"
        return (
            f"{where}, x {left} to {right} and y {top} to {bottom} of {self.size[0]} x "
            f"{self.size[1]} pixels, {self.area:.0%} of the image; cosine {self.cosine:.3f} there, "
            f"{self.median:.3f} in the median"
            f"{flat if self.cosine - self.median < FLAT else ''}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, in JSON types."""
        values = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def centered_square(image: Image.Image) -> tuple[int, int, int]:
    """Left, top and side of the largest centred square of an upright image, pixels."""
    width, height = to_rgb(image).size
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def _connected(mask: np.ndarray, row: int, column: int) -> np.ndarray:
    """The part of a mask [H, W] that is connected with a location, over edges."""
    region = np.zeros_like(mask)
    region[row, column] = True
    while True:
        grown = region.copy()
        grown[1:] |= region[:-1]
        grown[:-1] |= region[1:]
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        grown &= mask
        if (grown == region).all():
            return region
        region = grown
