"""Boxes and names drawn over an image, as a PNG."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from kdeov.data.images import to_rgb
from kdeov.errors import one_line
from kdeov.runtime.detections import Detections
from pipeline.cli.inference.detection.fonts import Font, font_for
from pipeline.storage.files import writing

MIN_SIDE = 512  # pixels of the longer side; smaller images are enlarged, so that names are legible
TURN = 0.6180339887  # golden section: hues of successive classes are far from each other
DARK, LIGHT = (20, 20, 20), (255, 255, 255)
MAX_NAME = 40  # characters

Box = tuple[float, float, float, float]


class Drawing:
    """Draws objects; the color of a class depends on its number alone.

    Args:
        software: Marks the files, so that the command may replace them.

    Attributes:
        unshown: Names by class number that no font has; their number is drawn.
    """

    def __init__(self, software: str):
        self._info = PngInfo()
        self._info.add_text("Software", software)
        self.unshown: dict[int, str] = {}

    def save(
        self, path: Path, image: Image.Image, found: Detections, labels: Sequence[str]
    ) -> None:
        """Writes an upright image with its objects.

        Args:
            path: The PNG; whole or absent.
            image: As it was read.
            found: Its N objects, best first.
            labels: Names of their classes, N.

        Raises:
            StorageError: The folder cannot be written.
        """
        drawn = self.draw(to_rgb(image), found, labels)
        with writing(path) as file:
            drawn.save(file, "PNG", pnginfo=self._info)

    def draw(self, image: Image.Image, found: Detections, labels: Sequence[str]) -> Image.Image:
        """A copy of an RGB image, enlarged where it is small, with boxes and names."""
        factor = max(1, -(-MIN_SIDE // max(image.size)))
        size = (image.width * factor, image.height * factor)
        shown = image.resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.copy()
        line = max(2, round(max(size) / 400))
        text_size = max(13, round(max(size) / 45))
        pen = ImageDraw.Draw(shown)
        frames = [tuple((box * factor).tolist()) for box in found.boxes]
        numbers = found.classes.tolist()
        for frame, number in reversed(list(zip(frames, numbers, strict=True))):  # best on top
            _frame(pen, frame, line, class_color(number))
        taken: list[Box] = []
        for frame, number, label, score in zip(
            frames, numbers, labels, found.scores.tolist(), strict=True
        ):
            name, font = self._named(number, label, text_size)
            _tag(pen, size, frame, f"{name} {score:.2f}", font, class_color(number), taken)
        return shown

    def _named(self, number: int, label: str, size: int) -> tuple[str, Font | None]:
        """What is drawn for a class, and its font."""
        name = one_line(label)
        name = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
        font = _font(name + "0123456789.", size)
        if font is None:
            self.unshown[number] = label
            return f"#{number}", _font("#0123456789.", size)
        return name, font


def class_color(number: int) -> tuple[int, int, int]:
    """A color, 0 to 255 a channel; those of successive classes differ clearly."""
    hue = (0.02 + number * TURN) % 1
    value = 0.95 if number % 2 == 0 else 0.75
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache(maxsize=4096)
def _font(text: str, size: int) -> Font | None:
    return font_for(text, size)


def _frame(pen: ImageDraw.ImageDraw, frame: Box, line: int, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = frame
    # pixels from `left` to `right`, the latter not included
    outer = (left, top, max(right - 1, left), max(bottom - 1, top))
    pen.rectangle(outer, outline=DARK, width=line + 1)  # an edge on images of the same color
    pen.rectangle(outer, outline=color, width=line)


def _tag(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    frame: Box,
    text: str,
    font: Font | None,
    color: tuple[int, int, int],
    taken: list[Box],
) -> None:
    """Writes a name on a ground of its color, beside the box and beside other names if possible."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(frame[0], 0), max(size[0] - width, 0))
    places = (frame[1] - height, frame[3], frame[1], frame[3] - height)
    inside = [y for y in places if y >= 0 and y + height <= size[1]]
    y = next((y for y in inside if not _meets((x, y, x + width, y + height), taken)), None)
    if y is None:
        y = inside[0] if inside else min(max(frame[1], 0), max(size[1] - height, 0))
    taken.append((x, y, x + width, y + height))
    pen.rectangle(taken[-1], fill=color)
    ink = DARK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else LIGHT
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=ink)


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(
        box[0] < right and left < box[2] and box[1] < bottom and top < box[3]
        for left, top, right, bottom in others
    )
