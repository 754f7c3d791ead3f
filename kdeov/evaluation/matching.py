"""Detections matched to objects, and from the matches AP and AR for any counts of the images.

The matching within an image is that of pycocotools, and does not depend on other images, so a
bootstrap sample needs no second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdeov.evaluation.bootstrap import Mean, bootstrap_counts
from kdeov.evaluation.detection import IOUS, NUM_RECALLS, Found, Objects

RECALLS = np.linspace(0.0, 1.0, NUM_RECALLS)
ALMOST_ONE = 1 - 1e-10  # an overlap that every equal box has
VALUES = 20_000_000  # numbers in memory at a time


@dataclass(frozen=True)
class Matches:
    """The detections that count, and the objects, with their matches at each of T overlaps.

    Attributes:
        found: D detections: of an image and class, the best by score.
        right: [T, D], whether a detection is matched to an object.
        ignored: [T, D], whether it counts neither as right nor as wrong.
        objects: G objects that are no crowds.
        hit: [T, G], whether an object is found.
    """

    found: Found
    right: np.ndarray
    ignored: np.ndarray
    objects: Objects
    hit: np.ndarray


def match(
    objects: Objects, found: Found, max_detections: int = 100, ious: np.ndarray = IOUS
) -> Matches:
    """Matches detections to objects of their class, the best score first.

    Args:
        objects: The annotated objects.
        found: The detections.
        max_detections: Detections of an image and class that count.
        ious: [T] overlaps that a match needs.
    """
    found = _counted(objects, found, max_detections)
    right = np.zeros((len(ious), len(found)), bool)
    ignored = np.zeros_like(right)
    hit = np.zeros((len(ious), len(objects)), bool)
    places = dict(_groups(objects))
    for pair, rows in _groups(found):
        # those of crowds last, as a detection goes to an object where it can
        own = places.get(pair, np.empty(0, int))
        own = own[np.argsort(objects.crowd[own], kind="stable")]
        if len(own):
            overlaps = box_overlaps(found.boxes[rows], objects.boxes[own], objects.crowd[own])
            for t, iou in enumerate(ious):
                taken = _assign(overlaps, objects.crowd[own], min(iou, ALMOST_ONE))
                known = taken >= 0
                crowd = known & objects.crowd[own][taken]
                right[t, rows] = known & ~crowd
                ignored[t, rows] = crowd
                hit[t, own[taken[known]]] = True
        if pair[1] in objects.incomplete.get(pair[0], ()):
            ignored[:, rows] |= ~right[:, rows]
    plain = np.flatnonzero(~objects.crowd)
    return Matches(found, right, ignored, objects.take(plain), hit[:, plain])


def box_overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The overlaps (IoU) [n, m] of boxes [n, 4] and [m, 4]; the share of the first box that lies
    within the second, where the second is a crowd [m].
    """
    sides, areas = [], []
    for part in (boxes, others):
        sides.append(part[:, 2:] - part[:, :2])
        areas.append(sides[-1][:, 0] * sides[-1][:, 1])
    # the far corner from corner and side, as pycocotools rounds it
    ends = [part[:, :2] + side for part, side in zip((boxes, others), sides, strict=True)]
    near = np.maximum(boxes[:, None, :2], others[None, :, :2])
    far = np.minimum(ends[0][:, None], ends[1][None])
    both = np.clip(far - near, 0, None).prod(axis=2)
    union = np.where(crowd, areas[0][:, None], areas[0][:, None] + areas[1] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _counted(objects: Objects, found: Found, max_detections: int) -> Found:
    """The detections that count, by descending score within an image and class."""
    order = np.lexsort((-found.scores, found.classes, found.images))
    kept = []
    for _, rows in _groups(found.take(order)):
        kept.append(order[rows[:max_detections]])
    chosen = np.concatenate([np.empty(0, int), *kept])
    if objects.absent is not None:
        sets = objects.looked_for()
        pairs = zip(found.images[chosen].tolist(), found.classes[chosen].tolist(), strict=True)
        chosen = chosen[np.array([c in sets[n] for n, c in pairs], dtype=bool)]
    return found.take(chosen)


def _groups(things: Objects | Found) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The image and class, and the rows, of each group that shares them; rows stay in order."""
    if not len(things):
        return
    order = np.lexsort((things.classes, things.images))
    images, classes = things.images[order], things.classes[order]
    changes = np.flatnonzero((np.diff(images) != 0) | (np.diff(classes) != 0)) + 1
    for rows in np.split(order, changes):
        yield (int(things.images[rows[0]]), int(things.classes[rows[0]])), rows


def _assign(overlaps: np.ndarray, crowd: np.ndarray, iou: float) -> np.ndarray:
    """The object [n] of each detection, -1 for none. Each object is taken once, a crowd often."""
    result = np.full(len(overlaps), -1)
    free = np.ones(len(crowd), bool)
    for row in np.flatnonzero((overlaps >= iou).any(axis=1)):
        for part in (~crowd & free, crowd):
            candidates = np.flatnonzero(part & (overlaps[row] >= iou))
            if len(candidates):
                values = overlaps[row, candidates]
                # the last of equals, as pycocotools has it
                best = candidates[len(values) - 1 - int(values[::-1].argmax())]
                result[row], free[best] = best, crowd[best]
                break
    return result


@dataclass(frozen=True)
class AveragePrecision:
    """The mean of the average precisions of some classes and overlaps, for counts of images.

    Attributes:
        matches: The matches.
        classes: The classes; those without a counted object are left out.
        overlaps: Rows of `Matches.right`.
    """

    matches: Matches
    classes: Sequence[int]
    overlaps: Sequence[int] = (0,)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """See `Statistic`."""
        return mean_of_classes(class_precisions(self.matches, self.classes, self.overlaps, counts))


def mean_of_classes(values: np.ndarray) -> np.ndarray:
    """The means [R] of values [R, K, T] that are NaN for classes without objects."""
    known = (~np.isnan(values[:, :, 0])).sum(axis=1)
    total = np.nansum(values, axis=(1, 2)) / values.shape[2]
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def precision_draws(
    matches: Matches, classes: Sequence[int], overlaps: Sequence[int], bootstrap_samples: int
) -> np.ndarray:
    """The average precisions [R, K, T] of K classes at T overlaps in the bootstrap samples that
    `distributions` draws; NaN where none of a class's objects is drawn.
    """
    size = matches.objects.num_images
    parts = bootstrap_counts(size, bootstrap_samples)
    return np.concatenate([class_precisions(matches, classes, overlaps, part) for part in parts])


def class_precisions(
    matches: Matches, classes: Sequence[int], overlaps: Sequence[int], counts: np.ndarray
) -> np.ndarray:
    """The average precisions of K classes at T overlaps.

    Args:
        matches: The matches.
        classes: The K classes.
        overlaps: T rows of `Matches.right`.
        counts: [R, N] of the images.

    Returns:
        [R, K, T], NaN where none of a class's objects is counted.
    """
    found, objects = matches.found, matches.objects
    order = np.lexsort((-found.scores, found.classes))
    starts = np.searchsorted(found.classes[order], classes, side="left")
    stops = np.searchsorted(found.classes[order], classes, side="right")
    result = np.full((len(counts), len(classes), len(overlaps)), np.nan)
    for place, number in enumerate(classes):
        owners = objects.images[objects.classes == number]
        sizes = counts[:, owners].sum(axis=1)
        values = _of_class(matches, order[starts[place] : stops[place]], overlaps, counts, sizes)
        result[:, place] = np.where(sizes[:, None] > 0, values, np.nan)
    return result


def _of_class(
    matches: Matches,
    rows: np.ndarray,
    overlaps: Sequence[int],
    counts: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """The average precisions [R, T] of a class with detections `rows` and `sizes` [R] objects."""
    result = np.zeros((len(counts), len(overlaps)))
    if not len(rows) or not sizes.any():
        return result
    step = max(1, VALUES // len(rows))
    images = matches.found.images[rows]
    for first in range(0, len(counts), step):
        part = slice(first, first + step)
        weights = counts[part][:, images].astype(np.float32)  # whole numbers, and few
        passed = np.cumsum(weights, axis=1, dtype=np.float64)
        for place, t in enumerate(overlaps):
            right = np.flatnonzero(matches.right[t, rows])
            skipped = matches.ignored[t, rows]
            tried = passed[:, right]
            if skipped.any():
                tried = tried - np.cumsum(weights * skipped, axis=1, dtype=np.float64)[:, right]
            hits = np.cumsum(weights[:, right], axis=1, dtype=np.float64)
            result[part, place] = _area(hits, tried, np.maximum(sizes[part], 1))
    return result


def _area(hits: np.ndarray, tried: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The mean of the interpolated precisions at `RECALLS`.

    Args:
        hits: [R, n], right detections up to and with each right one.
        tried: [R, n], all detections up to it.
        sizes: [R], number of objects.
    """
    if not hits.shape[1]:
        return np.zeros(len(hits))
    precision = hits / (tried + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, hits / sizes[:, None], side="right")
    steps = np.diff(reached, axis=1, prepend=0)
    return (precision * steps).sum(axis=1) / NUM_RECALLS


def recall(matches: Matches, classes: Sequence[int], overlaps: Sequence[int] = (0,)) -> Mean:
    """The share of the objects of some classes that is found, over all overlaps."""
    rows = np.flatnonzero(np.isin(matches.objects.classes, classes))
    answers = matches.hit[list(overlaps)][:, rows].mean(axis=0)
    return Mean.of(answers, matches.objects.images[rows], size=matches.objects.num_images)


@dataclass(frozen=True)
class AverageRecall:
    """The mean over some classes of the share of a class's objects that is found, over overlaps.

    Attributes:
        matches: The matches.
        classes: The classes; those without a counted object are left out.
        overlaps: Rows of `Matches.hit`.
    """

    matches: Matches
    classes: Sequence[int]
    overlaps: Sequence[int] = (0,)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """See `Statistic`."""
        objects = self.matches.objects
        answers = self.matches.hit[list(self.overlaps)].mean(axis=0)
        total, known = np.zeros(len(counts)), np.zeros(len(counts))
        for number in self.classes:
            rows = np.flatnonzero(objects.classes == number)
            weights = counts[:, objects.images[rows]]
            sizes = weights.sum(axis=1)
            known += sizes > 0
            total += (weights @ answers[rows]) / np.maximum(sizes, 1)
        return np.where(known > 0, total / np.maximum(known, 1), np.nan)
