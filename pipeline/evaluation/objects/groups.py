"""Object classes in groups, and the metrics of each: base, held out, and those of which the
detector saw boxes though they are held out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from torch import Tensor

from kdeov.evaluation.bootstrap import Mean, Statistic, distributions, values_of
from kdeov.evaluation.detection import IOUS, Curves, Found, Objects
from kdeov.evaluation.matching import AverageRecall, Matches, match, mean_of_classes, recall
from kdeov.evaluation.metrics import INTERVAL, compare, intervals
from pipeline.artifacts.dataset import Dataset

BASE, HELD_OUT, TRANSFER, ALL = "base", "held_out", "transfer", "all"
EVERY_IOU = range(len(IOUS))
FEW, MANY = 10, 100  # proposals of an image that count for recall


def class_groups(dataset: Dataset, boxes_seen: Collection[str]) -> dict[str, list[int]]:
    """Numbers of the object classes of each group; a group without classes is left out.

    A held-out class of which boxes trained the trunk, the neck or the head is of the group
    `transfer`: a COCO-trained YOLO has seen all 17 classes that OV-COCO holds out.
    """
    seen = {_folded(name) for name in boxes_seen}
    held_out = set(dataset.held_out_objects)
    groups: dict[str, list[int]] = {BASE: [], HELD_OUT: [], TRANSFER: []}
    for number, name in enumerate(dataset.object_classes):
        kind = BASE if name not in held_out else TRANSFER if _folded(name) in seen else HELD_OUT
        groups[kind].append(number)
    groups[ALL] = list(range(len(dataset.object_classes)))
    return {name: numbers for name, numbers in groups.items() if numbers}


def num_seen(dataset: Dataset, numbers: Collection[int], boxes_seen: Collection[str]) -> int:
    """How many of some classes the detector saw boxes of."""
    seen = {_folded(name) for name in boxes_seen}
    return sum(_folded(dataset.object_classes[number]) in seen for number in numbers)


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def precision_of(
    numbers: list[int],
    curves: Curves,
    matches: Matches,
    precisions: np.ndarray,
    proposals: Found,
    objects: Objects,
    bootstrap_samples: int,
) -> dict[str, Any]:
    """The metrics of a group of classes, with 95% intervals over images.

    Args:
        numbers: The classes of the group.
        curves: Precision and recall of all classes.
        matches: The matches behind them.
        precisions: [R, K, 10], the average precisions of all classes in bootstrap samples.
        proposals: Boxes of any object, by objectness, as boxes of class 0.
        objects: The annotated objects.
        bootstrap_samples: Number of bootstrap samples.

    Returns:
        `classes`, `classes_with_objects`, `objects`, and where there are objects `ap`, `ap50`,
        `ap75`, `ar` (of detections), `ar50_10` and `ar_100` (of proposals, whatever their class),
        and `interval`.
    """
    own = objects.take(np.flatnonzero(np.isin(objects.classes, numbers)))
    counted = own.classes[~own.crowd]
    result: dict[str, Any] = {
        "classes": len(numbers),
        "classes_with_objects": len(np.unique(counted)),
        "objects": len(counted),
    }
    if not len(counted):
        return result
    boxes = own.of_one_class()
    few, many = match(boxes, proposals, FEW, IOUS[:1]), match(boxes, proposals, MANY)
    agnostic: dict[str, Statistic] = {
        "ar50_10": recall(few, [0]),
        "ar_100": recall(many, [0], EVERY_IOU),
    }
    values = curves.summary(numbers)
    recalls = {"ar": AverageRecall(matches, numbers, EVERY_IOU), **agnostic}
    draws = distributions(recalls, objects.num_images, bootstrap_samples)
    for name, overlaps in (("ap", EVERY_IOU), ("ap50", [0]), ("ap75", [5])):
        # copies of an image tie, which raises the precision of a bootstrap sample a little: the
        # draws are shifted, so that their mean is the value
        drawn = mean_of_classes(precisions[:, numbers][:, :, overlaps])
        draws[name] = np.clip(drawn - np.nanmean(drawn) + (values[name] or 0.0), 0, 1)
    return {
        **result,
        **values,
        **values_of(agnostic, objects.num_images),
        INTERVAL: intervals(draws),
    }


def true_boxes_of(
    numbers: list[int],
    objects: Objects,
    student: Tensor,
    teacher: Tensor | None,
    bootstrap_samples: int,
) -> dict[str, Any]:
    """Classification of true boxes of a group of classes, among all classes: what the regions are
    worth where the boxes are right.

    Args:
        numbers: The classes of the group.
        objects: The objects that are no crowds.
        student: [G, K] cosines of the student's regions with the classes.
        teacher: The same of the teacher's crops; None where it has no image tower.
        bootstrap_samples: Number of bootstrap samples.

    Returns:
        What `compare` returns, and `agreement`: how often both choose one class. Empty where the
        group has no objects.
    """
    rows = np.flatnonzero(np.isin(objects.classes, numbers))
    if not len(rows):
        return {}

    def mean(answers: np.ndarray) -> dict[str, Statistic]:
        return {"top1": Mean.of(answers, objects.images[rows], size=objects.num_images)}

    chosen = student[rows].argmax(dim=1).numpy()
    labels = objects.classes[rows]
    theirs = None if teacher is None else teacher[rows].argmax(dim=1).numpy()
    result = compare(
        None if theirs is None else mean(theirs == labels),
        mean(chosen == labels),
        objects.num_images,
        bootstrap_samples,
        counts={"boxes": len(rows)},
    )
    return result | {"agreement": None if theirs is None else float((theirs == chosen).mean())}
