"""From proposals of an image and class embeddings to detections, in numpy: scores that do not
depend on the other classes, class-wise non-maximum suppression, and vocabularies of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdeov.errors import ConfigError
from kdeov.runtime.card import DetectionCard

SCORES = 300_000  # of a block: proposals times classes
TINY = np.float32(1e-12)  # lowest objectness; `kdeov.detection.scores` has the same


@dataclass(frozen=True)
class Regions:
    """Proposals of one image: boxes around whatever may be an object, of any class. They depend on
    the image alone, so that any number of vocabularies can be compared with them.

    Attributes:
        boxes: float32 [P, 4], left, top, right, bottom in pixels of the upright image.
        objectness: float32 [P], between 0 and 1, highest first.
        embeddings: float32 [P, D], unit length.
        letterboxed: float32 [P, 4], the boxes before they were clipped to the image, in pixels of
            the letterbox; suppression compares these.
        size: Width and height of the upright image, pixels.
    """

    boxes: np.ndarray
    objectness: np.ndarray
    embeddings: np.ndarray
    letterboxed: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class Detections:
    """Objects that were found in one image, best first.

    Attributes:
        boxes: float32 [N, 4], left, top, right, bottom in pixels of the upright image.
        scores: float32 [N], between 0 and 1.
        classes: int64 [N], numbers of the classes.
        labels: N names of the classes; their numbers where embeddings were given without names.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    labels: list[str]


@dataclass(frozen=True)
class Selection:
    """Which scored boxes become detections.

    Attributes:
        min_score: Lowest score.
        nms_iou: Intersection over union above which the lower one of two boxes of a class goes.
        max_detections: Of an image, over all classes.
        one_class: Whether a box has its best class alone, and suppresses boxes of any class; else
            it may have several, and each class is by itself.

    Raises:
        ConfigError: A value outside of its range.
    """

    min_score: float = 0.25
    nms_iou: float = 0.5
    max_detections: int = 100
    one_class: bool = False

    def __post_init__(self) -> None:
        for name in ("min_score", "nms_iou"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; give a number from 0 to 1")
        count = self.max_detections
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"max_detections is {count!r}; give a number from 1 on")


DEFAULT_SELECTION = Selection()


def detections(
    regions: Regions,
    classes: np.ndarray,
    labels: Sequence[str],
    card: DetectionCard,
    selection: Selection,
) -> Detections:
    """The objects of an image, a block of classes at a time.

    Args:
        regions: Its proposals.
        classes: Unit embeddings [K, D].
        labels: K names.
        card: The parameters of scores.
        selection: What is kept.
    """
    overlaps = box_iou(regions.letterboxed) > selection.nms_iou
    step = max(1, SCORES // max(1, len(regions.boxes)))
    places = np.empty((0, 2), np.int64)
    best = np.empty(0, np.float32)
    blocks = score_blocks(regions, classes, card, step)
    if selection.one_class:
        scores, likeliest = _best_classes(blocks)
        blocks = iter([(0, scores)])
    for start, scores in blocks:
        kept = np.argwhere(class_wise_nms(scores, overlaps, selection.min_score))
        best = np.concatenate([best, scores[kept[:, 0], kept[:, 1]]])
        places = np.concatenate([places, kept + np.array([0, start])])
        order = np.lexsort((*places.T, -best))[: selection.max_detections]
        best, places = best[order], places[order]
    boxes, numbers = places.T
    if selection.one_class:
        numbers = likeliest[boxes]
    return Detections(
        regions.boxes[boxes], best, numbers, [labels[number] for number in numbers.tolist()]
    )


def score_blocks(
    regions: Regions, classes: np.ndarray, card: DetectionCard, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The first class of each block of `step` classes, and its scores [P, step]."""
    for start in range(0, len(classes), step):
        cosines = regions.embeddings @ classes[start : start + step].T
        yield start, detection_scores(regions.objectness, cosines, card)


def _best_classes(blocks: Iterator[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores [P, 1] of the best class of each box, and its number [P]; of equal ones the first."""
    parts = [(start + scores.argmax(axis=1), scores.max(axis=1)) for start, scores in blocks]
    numbers, scores = (np.stack(values, axis=1) for values in zip(*parts, strict=True))
    rows, block = np.arange(len(scores)), scores.argmax(axis=1)
    return scores[rows, block][:, None], numbers[rows, block]


def detection_scores(
    objectness: np.ndarray, cosines: np.ndarray, card: DetectionCard
) -> np.ndarray:
    """`o ** (1 - beta) * sigmoid(scale * cosine + bias) ** beta`: how likely a box is an object and
    that object is of a class, whatever other classes there are.

    Args:
        objectness: float32 [P], between 0 and 1.
        cosines: float32 [P, K].
        card: The parameters.

    Returns:
        float32 [P, K], between 0 and 1.
    """
    logits = np.float32(card.scale) * cosines.astype(np.float32) + np.float32(card.bias)
    # the logarithm of the sigmoid, without overflow
    classes = np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))
    objects = np.log(np.maximum(objectness.astype(np.float32), TINY))
    return np.exp(np.float32(1 - card.beta) * objects[:, None] + np.float32(card.beta) * classes)


def box_iou(boxes: np.ndarray) -> np.ndarray:
    """Intersections over unions [P, P] of boxes [P, 4]; 0 where both have no area."""
    boxes = boxes.astype(np.float64)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = sides.prod(axis=1)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    union = areas[:, None] + areas[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def class_wise_nms(scores: np.ndarray, overlaps: np.ndarray, min_score: float) -> np.ndarray:
    """Greedy non-maximum suppression of each class by itself, all classes in step.

    Args:
        scores: [P, K]; of equal ones the first box counts as the higher.
        overlaps: bool [P, P], whether two boxes are one object.
        min_score: Lower scores are no detections, and suppress nothing.

    Returns:
        bool [P, K], what is kept.
    """
    kept = np.zeros(scores.shape, bool)
    columns = np.flatnonzero((scores >= min_score).any(axis=0))
    alive = (scores[:, columns] >= min_score).T  # [k, P]
    order = np.argsort(-scores[:, columns], axis=0, kind="stable")
    for ranked in order[: int(alive.sum(axis=1).max(initial=0))]:
        chosen = np.flatnonzero(alive[np.arange(len(columns)), ranked])
        kept[ranked[chosen], columns[chosen]] = True
        alive[chosen] &= ~overlaps[ranked[chosen]]
    return kept
