"""Average precision and recall of detections as COCO defines them, by faster-coco-eval.

A detection is right at an overlap (IoU) where it is matched to an object of its class; the
precision is interpolated at 101 recalls (Lin et al., 2014, arXiv:1405.0312). Boxes of crowds are
ignored: a detection in them counts neither as right nor as wrong. Where a source says which classes
were looked for in an image, others are not counted there (LVIS; Gupta et al., 2019,
arXiv:1908.03195).

What a number means depends on how many detections of an image count, and on the vocabulary: both
belong to its protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
NUM_RECALLS = 101
BLOCK = 1_000_000  # pairs of image and class that the library lists at a time


@dataclass(frozen=True)
class Objects:
    """The annotated objects of N images.

    Attributes:
        num_images: N.
        images: [G], the image of each object, from 0 to N - 1.
        boxes: [G, 4], left, top, right, bottom in pixels of the image.
        classes: [G] class numbers.
        crowd: [G], whether a box is around many objects.
        absent: The classes that each image is known not to show, where only they and those of its
            objects were looked for; None where every class was.
        incomplete: The classes of which an image may show more objects than it has boxes.
    """

    num_images: int
    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    absent: dict[int, set[int]] | None = None
    incomplete: dict[int, set[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> Objects:
        """Some of the objects, of the same images."""
        parts = (self.images[rows], self.boxes[rows], self.classes[rows], self.crowd[rows])
        return Objects(self.num_images, *parts, self.absent, self.incomplete)

    def of_one_class(self) -> Objects:
        """The same boxes, as boxes of class 0."""
        parts = (self.images, self.boxes, np.zeros_like(self.classes), self.crowd)
        return Objects(self.num_images, *parts)

    def looked_for(self) -> dict[int, set[int]]:
        """The classes that count in each image, where `absent` is given."""
        classes = {
            number: set((self.absent or {}).get(number, ())) for number in range(self.num_images)
        }
        for image, number in zip(self.images.tolist(), self.classes.tolist(), strict=True):
            classes[image].add(number)
        return classes


@dataclass(frozen=True)
class Found:
    """Detections of all images.

    Attributes:
        images: [D], the image of each detection.
        boxes: [D, 4], left, top, right, bottom in pixels of the image.
        classes: [D] class numbers.
        scores: [D].
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> Found:
        """Some of the detections."""
        parts = (self.images, self.boxes, self.classes, self.scores)
        return Found(*(part[rows] for part in parts))

    def of_one_class(self) -> Found:
        """The same boxes, as boxes of class 0."""
        return Found(self.images, self.boxes, np.zeros_like(self.classes), self.scores)

    @classmethod
    def of(cls, images: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Found:
        """Joins boxes [n, 4], scores [n] and classes [n] of each image, in order."""
        parts = list(images)
        numbers = [np.full(len(scores), number) for number, (_, scores, _) in enumerate(parts)]
        return cls(
            np.concatenate([np.empty(0, int), *numbers]).astype(int),
            np.concatenate([np.empty((0, 4)), *(boxes for boxes, _, _ in parts)]).astype(float),
            np.concatenate([np.empty(0, int), *(classes for _, _, classes in parts)]).astype(int),
            np.concatenate([np.empty(0), *(scores for _, scores, _ in parts)]).astype(float),
        )


@dataclass(frozen=True)
class Curves:
    """Precision and recall of K classes; -1 for a class without objects.

    Attributes:
        precision: [10, 101, K], by overlap (`IOUS`) and recall.
        recall: [10, K], the largest recall by overlap.
    """

    precision: np.ndarray
    recall: np.ndarray

    def summary(self, classes: Sequence[int] | None = None) -> dict[str, float | None]:
        """`ap` (the mean over `IOUS`), `ap50`, `ap75` and `ar` of some classes, or of all; None
        where none of them has an object.
        """
        rows = slice(None) if classes is None else np.asarray(classes, dtype=int)
        precision, recall = self.precision[:, :, rows], self.recall[:, rows]
        return {
            "ap": _mean(precision),
            "ap50": _mean(precision[0]),
            "ap75": _mean(precision[5]),
            "ar": _mean(recall),
        }

    def by_class(self) -> list[float | None]:
        """The AP50 of each class."""
        return [_mean(self.precision[0, :, number]) for number in range(self.recall.shape[1])]


def average_precision(
    objects: Objects, found: Found, num_classes: int, max_detections: int = 100
) -> Curves:
    """Precision and recall of detections, by class.

    Args:
        objects: The annotated objects.
        found: The detections.
        num_classes: K; class numbers are 0 to K - 1.
        max_detections: Detections of an image and class that count, those of the highest scores,
            as pycocotools has it.
    """
    block = max(1, BLOCK // max(objects.num_images, 1))
    parts = []
    for first in range(0, num_classes, block):
        numbers = range(first, min(first + block, num_classes))
        parts.append(_evaluate(objects, found, numbers, max_detections))
    precision, recall = zip(*parts, strict=True)
    return Curves(np.concatenate(precision, axis=2), np.concatenate(recall, axis=1))


def _evaluate(
    objects: Objects, found: Found, numbers: range, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    # the module is slow to import, and only this function needs it
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    rows = np.flatnonzero((objects.classes >= numbers.start) & (objects.classes < numbers.stop))
    hits = np.flatnonzero((found.classes >= numbers.start) & (found.classes < numbers.stop))
    truth = coco_dataset(objects.take(rows), numbers)
    results = {**truth, "annotations": _annotations(found.take(hits))}
    tables = []
    for dataset in (truth, results):
        table = COCO(print_function=_silent)
        table.dataset = dataset
        table.createIndex()
        tables.append(table)
    federated = objects.absent is not None
    run = COCOeval_faster(*tables, "bbox", print_function=_silent, lvis_style=federated)
    run.params.imgIds = list(range(objects.num_images))
    run.params.catIds = list(numbers)
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.params.maxDets = [max_detections]
    run.evaluate()
    run.accumulate()
    shape = (len(IOUS), NUM_RECALLS, len(numbers))
    precision = np.asarray(run.eval["precision"]).reshape(shape)
    return precision, np.asarray(run.eval["recall"]).reshape(shape[::2])


def coco_dataset(objects: Objects, classes: Iterable[int]) -> dict[str, Any]:
    """The objects in COCO's format, with the numbers of images and classes as ids."""
    images: list[dict[str, Any]] = [{"id": number} for number in range(objects.num_images)]
    if objects.absent is not None:
        for image in images:
            image["neg_category_ids"] = sorted(objects.absent.get(image["id"], ()))
            image["not_exhaustive_category_ids"] = sorted(objects.incomplete.get(image["id"], ()))
    annotations = _annotations(objects)
    for annotation, crowd in zip(annotations, objects.crowd, strict=True):
        annotation["iscrowd"] = int(crowd)
    categories = [{"id": n, "name": str(n), "frequency": "f"} for n in classes]
    return {"images": images, "categories": categories, "annotations": annotations}


def _annotations(things: Objects | Found) -> list[dict[str, Any]]:
    sides = things.boxes[:, 2:] - things.boxes[:, :2]
    rows = np.concatenate([things.boxes[:, :2], sides], axis=1).tolist()
    entries = zip(things.images.tolist(), things.classes.tolist(), rows, strict=True)
    found: list[dict[str, Any]] = [
        {"id": n, "image_id": image, "category_id": c, "bbox": box, "area": box[2] * box[3]}
        for n, (image, c, box) in enumerate(entries, 1)
    ]
    if isinstance(things, Found):
        for entry, score in zip(found, things.scores.tolist(), strict=True):
            entry["score"] = score
    return found


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _silent(*_: object) -> None:
    """The library prints each of its steps."""
