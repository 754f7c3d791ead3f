"""Annotated objects of an image, scaled to the stored image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.prepare.images import UnusableImage


@dataclass(frozen=True)
class Boxes:
    """The annotated objects of one image.

    Attributes:
        width: Width of the annotated image, pixels.
        height: Height of the annotated image, pixels.
        objects: Name, left, top, width, height (pixels) and crowd flag of each.
        absent: Classes of which the image is known to show nothing, where the source says so (the
            `neg_category_ids` of LVIS, Gupta et al., 2019, arXiv:1908.03195); None elsewhere.
        incomplete: Classes of which some objects have no box, where the source says so.
    """

    width: int
    height: int
    objects: list[tuple[str, float, float, float, float, bool]] = field(default_factory=list)
    absent: list[str] | None = None
    incomplete: list[str] | None = None

    def described(self, size: tuple[int, int]) -> dict[str, Any]:
        """The entries of a sample's description: `objects` (see `within`), and `absent` and
        `incomplete` where the source says so.
        """
        lists = {"absent": self.absent, "incomplete": self.incomplete}
        known = {key: names for key, names in lists.items() if names is not None}
        return {"objects": self.within(size)} | known

    def within(self, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Objects with `name`, `box` (left, top, right, bottom in pixels of the stored image) and
        `crowd`.

        Args:
            size: Width and height of the stored image.

        Raises:
            UnusableImage: The image has another aspect ratio, or a box is invalid.
        """
        width, height = size
        # scaling keeps the aspect ratio but for the rounding of a side
        distortion = abs(width * self.height - height * self.width)
        if min(self.width, self.height) < 1 or distortion > max(self.width, self.height):
            raise UnusableImage(
                f"{width} x {height} pixels, but its boxes are of {self.width} x {self.height}"
            )
        x_scale, y_scale = width / self.width, height / self.height
        found = []
        for name, left, top, wide, high, crowd in self.objects:
            if not all(map(math.isfinite, (left, top, wide, high))) or wide < 0 or high < 0:
                raise UnusableImage(f"a box of {name} is invalid ({left, top, wide, high})")
            box = [
                _clip(left * x_scale, width), _clip(top * y_scale, height),
                _clip((left + wide) * x_scale, width), _clip((top + high) * y_scale, height),
            ]  # fmt: skip
            found.append({"name": name, "box": box, "crowd": crowd})
        return found


def _clip(place: float, size: int) -> float:
    return round(min(max(place, 0), size), 2)
