"""The student's mistakes: the confusion matrix as inline SVG, and the most confused pairs.

Nothing here grows with the square of the number of classes: of 10,000 classes that would be 100
million cells.
"""

from __future__ import annotations

import base64
import unicodedata
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.report.classes.predictions import Predictions
from pipeline.report.figures import image_png

MAX_NAMED = 80  # classes; the names of more are too small to read
MAX_BLOCKS = 250  # rows and columns of the matrix of more classes
MAX_TITLED = 1500  # cells that say in words what they count
CELL = 13  # units of a cell's side
NUM_PAIRS = 30
LABEL_COLUMNS = 22  # letters of a name beside the matrix
LETTER = 6.0  # units of a letter's width, about
SHADE = (20, 150, 136)  # of blocks, on light and on dark


@dataclass(frozen=True)
class Pair:
    """A class and another that the student predicts in its place.

    Attributes:
        label: Name of the class.
        predicted: Name of the predicted class.
        count: Images.
        images: Images of the class.
        teacher: How many of the class's images the teacher confuses alike; None without one.
    """

    label: str
    predicted: str
    count: int
    images: int
    teacher: int | None


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix with named classes.

    Attributes:
        row: Number of the class.
        column: Number of the predicted class.
        share: Of the class's images.
        title: In words; empty where there are too many cells.
    """

    row: int
    column: int
    share: float
    title: str

    @property
    def opacity(self) -> str:
        """Grows with the root of the share, so that single mistakes are visible."""
        return f"{max(0.12, self.share**0.5):.2f}"


@dataclass(frozen=True)
class NamedMatrix:
    """The matrix of up to `MAX_NAMED` classes.

    Attributes:
        labels: Names, shortened.
        names: Whole names.
        cells: Cells that are not empty.
        margin: Units beside the cells, for the labels.
        side: Units of all cells.
    """

    labels: list[str]
    names: list[str]
    cells: list[Cell]
    margin: int
    side: int


@dataclass(frozen=True)
class BlockMatrix:
    """The matrix of more classes, in blocks of neighboring ones.

    Attributes:
        url: The image, as a `data:` URL.
        classes: Classes of a block.
    """

    url: str
    classes: int


def confused_pairs(predictions: Predictions, count: int = NUM_PAIRS) -> list[Pair]:
    """The pairs of classes that the student confuses most often, the most frequent first."""
    found = _counted(predictions, "student")
    teacher = _counted(predictions, "teacher") if "teacher" in predictions.predicted else None
    size = len(predictions.names)
    images = np.bincount(predictions.labels, minlength=size)
    mistakes = [(n, pair) for pair, n in found.items() if pair // size != pair % size]
    mistakes.sort(key=lambda entry: (-entry[0], entry[1]))
    return [
        Pair(
            predictions.names[pair // size],
            predictions.names[pair % size],
            n,
            int(images[pair // size]),
            None if teacher is None else teacher.get(pair, 0),
        )
        for n, pair in mistakes[:count]
    ]


def confusion_matrix(predictions: Predictions) -> NamedMatrix | BlockMatrix:
    """The student's confusion matrix; shares are of the images of a row's class."""
    if len(predictions.names) > MAX_NAMED:
        png, classes = block_png(predictions)
        return BlockMatrix(f"data:image/png;base64,{base64.b64encode(png).decode()}", classes)
    size, found = len(predictions.names), _counted(predictions, "student")
    images = np.bincount(predictions.labels, minlength=size)
    names, titled = predictions.names, len(found) <= MAX_TITLED
    titles = [short_label(name, 3 * LABEL_COLUMNS) for name in names]
    cells = [
        Cell(
            row := pair // size,
            column := pair % size,
            n / int(images[row]),
            f"{n} of {images[row]} {titles[row]}: {titles[column]}" if titled else "",
        )
        for pair, n in sorted(found.items())
    ]
    labels = [short_label(name) for name in names]
    margin = round(LETTER * max(map(_width, labels))) + 12
    return NamedMatrix(labels, names, cells, margin, CELL * size)


def short_label(name: str, columns: int = LABEL_COLUMNS) -> str:
    """A name on one line, shortened in the middle to a number of letters; a letter of East Asian
    scripts counts twice.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if _width(text) <= columns:
        return text
    start, end = text, ""
    while _width(end) < columns // 3:
        end = start[-1] + end
        start = start[:-1]
    start = start[:columns]
    while _width(start) + _width(end) >= columns:
        start = start[:-1]
    return f"{start}…{end}"


def block_png(predictions: Predictions) -> tuple[bytes, int]:
    """The matrix in at most `MAX_BLOCKS` rows of blocks, as a transparent PNG, and the classes of a
    block.
    """
    size = len(predictions.names)
    classes = -(-size // MAX_BLOCKS)
    side = -(-size // classes)
    counts = np.zeros((side, side))
    student = predictions.predicted["student"]
    np.add.at(counts, (predictions.labels // classes, student // classes), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = SHADE
    pixels[..., 3] = np.where(shares > 0, 255 * np.maximum(0.15, np.sqrt(shares)), 0)
    scale = max(1, 500 // side)  # whole pixels, whatever filter a browser has
    image = Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    return image_png(image), classes


def _counted(predictions: Predictions, model: str) -> dict[int, int]:
    """Images by pair, label * K + prediction."""
    pairs = predictions.labels.astype(np.int64) * len(predictions.names)
    values, counts = np.unique(pairs + predictions.predicted[model], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
