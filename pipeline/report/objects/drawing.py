"""Images with boxes: hits, misses and false alarms."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 300  # pixels of the longer side
MIN_SIDE = 12  # of a box, within which its number has room
HIT, MISS, FALSE_ALARM = "hit", "miss", "false alarm"
SIGNS = {HIT: "\u2713", MISS: "?", FALSE_ALARM: "\u00d7"}  # kinds differ in more than color
COLORS = {HIT: "#0f766e", MISS: "#be123c", FALSE_ALARM: "#b45309"}  # as in style.css
MAX_BOXES = 9  # of an image; the best stay


@dataclass(frozen=True)
class Mark:
    """A box of an image.

    Attributes:
        kind: HIT, MISS or FALSE_ALARM.
        name: The class: of the detection, or of the missed object.
        score: Of the detection; None for a miss.
        box: Left, top, right, bottom in pixels of the image.
    """

    kind: str
    name: str
    score: float | None
    box: tuple[float, float, float, float]

    @property
    def sign(self) -> str:
        """The sign of the kind."""
        return SIGNS[self.kind]


@dataclass(frozen=True)
class MarkedImage:
    """An image with its boxes drawn and numbered from 1.

    Attributes:
        jpeg: The image.
        marks: Its boxes, in the order of their numbers.
    """

    jpeg: bytes
    marks: list[Mark]


def threshold_of(arrays: dict[str, np.ndarray]) -> float:
    """The score at which the harmonic mean of precision and recall over all classes is largest;
    the report draws detections from there on. Numbers do not depend on it.
    """
    counted = ~arrays["ignored"]
    scores, right = arrays["scores"][counted], arrays["right"][counted]
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    objects = int((~arrays["object_crowd"]).sum())
    return float(scores[order][np.argmax(2 * hits / (np.arange(1, len(order) + 1) + objects))])


def marks_of(arrays: dict[str, np.ndarray], image: int, threshold: float) -> list[Mark]:
    """The boxes of an image: detections of some score, and the objects that none of them finds.

    Args:
        arrays: What the stage `detection` wrote.
        image: Number of the image.
        threshold: Lowest score of a detection.
    """
    names = arrays["names"]
    found = (arrays["images"] == image) & (arrays["scores"] >= threshold) & ~arrays["ignored"]
    rows = np.flatnonzero(found)
    rows = rows[np.argsort(-arrays["scores"][rows], kind="stable")]
    marks = [
        Mark(
            HIT if arrays["right"][row] else FALSE_ALARM,
            str(names[arrays["classes"][row]]),
            float(arrays["scores"][row]),
            tuple(arrays["boxes"][row].tolist()),
        )
        for row in rows
    ]
    objects = np.flatnonzero((arrays["object_images"] == image) & ~arrays["object_crowd"])
    hits = [mark for mark in marks if mark.kind == HIT]
    for row in objects:
        box = tuple(arrays["object_boxes"][row].tolist())
        name = str(names[arrays["object_classes"][row]])
        match = next((m for m in hits if m.name == name and _overlap(m.box, box) >= 0.5), None)
        if match is None:
            marks.append(Mark(MISS, name, None, box))
        else:
            hits.remove(match)
    return marks


def choose(arrays: dict[str, np.ndarray], count: int, threshold: float) -> list[int]:
    """Images to show: in turn those with a hit, with a miss, and with a false alarm.

    Args:
        arrays: What the stage `detection` wrote.
        count: Largest number of images.
        threshold: Lowest score of a detection.
    """
    shown = (arrays["scores"] >= threshold) & ~arrays["ignored"]
    hits = np.unique(arrays["images"][shown & arrays["right"]])
    alarms = np.unique(arrays["images"][shown & ~arrays["right"]])
    late = ~arrays["object_found"] & ~arrays["object_crowd"]
    misses = np.unique(arrays["object_images"][late])
    chosen: list[int] = []
    for number, kind in enumerate((hits, misses, alarms)):
        left = count - len(chosen)
        wanted = -(-left // (3 - number))
        rest = kind[~np.isin(kind, chosen)]
        places = np.linspace(0, len(rest) - 1, min(wanted, len(rest))).astype(int)
        chosen += rest[np.unique(places)].tolist()
    return chosen


def marked_images(
    arrays: dict[str, np.ndarray], numbers: list[int], load: Callable[[int], Image.Image]
) -> list[MarkedImage]:
    """The images of these numbers with their boxes.

    Args:
        arrays: What the stage `detection` wrote.
        numbers: Numbers of images.
        load: An image in RGB by its number.
    """
    threshold = threshold_of(arrays)
    return [draw(load(n), marks_of(arrays, n, threshold)[:MAX_BOXES]) for n in numbers]


def draw(image: Image.Image, marks: list[Mark]) -> MarkedImage:
    """Draws numbered boxes; a missed object is dashed."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(shown)
    # the best box is drawn last, above the others
    for number, mark in reversed(list(enumerate(marks, 1))):
        left, top, right, bottom = (round(place * scale) for place in mark.box)
        right, bottom = max(left + 2, right), max(top + 2, bottom)
        _frame(canvas, (left, top, right, bottom), COLORS[mark.kind], dashed=mark.kind == MISS)
        # missed objects have their number at the lower right, as a detection may lie above
        x, y = (right - MIN_SIDE, bottom - MIN_SIDE) if mark.kind == MISS else (left, top)
        canvas.rectangle((x, y, x + MIN_SIDE, y + MIN_SIDE), fill=COLORS[mark.kind])
        canvas.text((x + MIN_SIDE / 2, y + MIN_SIDE / 2), str(number), fill="white", anchor="mm")
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return MarkedImage(buffer.getvalue(), marks)


def _frame(
    canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, dashed: bool
) -> None:
    left, top, right, bottom = box
    if not dashed:
        canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=4)
        canvas.rectangle(box, outline=color, width=2)
        return
    for start in range(left, right, 8):
        end = min(start + 5, right)
        canvas.line((start, top, end, top), fill=color, width=2)
        canvas.line((start, bottom, end, bottom), fill=color, width=2)
    for start in range(top, bottom, 8):
        end = min(start + 5, bottom)
        canvas.line((left, start, left, end), fill=color, width=2)
        canvas.line((right, start, right, end), fill=color, width=2)


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    both = max(wide, 0.0) * max(high, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return both / max(sum(areas) - both, 1e-9)
