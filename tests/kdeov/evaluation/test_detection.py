"""AP and AR are those of pycocotools, at any counts of the images."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdeov.evaluation.bootstrap import distributions, interval, paired_gain
from kdeov.evaluation.detection import (
    Found,
    Objects,
    average_precision,
    coco_dataset,
)
from kdeov.evaluation.matching import AveragePrecision, AverageRecall, match, recall

CLASSES = 5
ALL = range(CLASSES)


def random_objects(rng: np.random.Generator, images: int = 30, crowds: float = 0.15) -> Objects:
    """Up to seven boxes an image; the last class has none."""
    owners = np.repeat(np.arange(images), rng.integers(0, 8, images))
    near = rng.uniform(0, 80, (len(owners), 2))
    boxes = np.concatenate([near, near + rng.uniform(5, 60, (len(owners), 2))], axis=1)
    classes = rng.integers(0, CLASSES - 1, len(owners))
    return Objects(images, owners, boxes, classes, rng.random(len(owners)) < crowds)


def random_found(rng: np.random.Generator, objects: Objects) -> Found:
    """Shifted boxes of the objects, several each, and random ones; some scores are equal."""
    rows = rng.integers(0, len(objects), 4 * len(objects))
    boxes = objects.boxes[rows] + rng.normal(0, 4, (len(rows), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    wrong = rng.random(len(rows)) < 0.3
    classes = np.where(wrong, rng.integers(0, CLASSES, len(rows)), objects.classes[rows])
    images = np.sort(objects.images[rows])
    images = np.where(rng.random(len(rows)) < 0.9, objects.images[rows], images)
    order = np.argsort(images, kind="stable")
    scores = np.round(rng.random(len(rows)), 2)
    return Found(images[order], boxes[order], classes[order], scores[order])


def by_pycocotools(
    objects: Objects, found: Found, max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10, 101, K] and recall [10, K]."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_dataset(objects, ALL)
        truth.createIndex()
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        rows = np.column_stack(
            [found.images, found.boxes[:, :2], sides, found.scores, found.classes]
        )
        run = COCOeval(truth, truth.loadRes(rows), "bbox")
        run.params.maxDets = [max_detections]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][..., 0, 0], run.eval["recall"][..., 0, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_detections", [3, 100])
def test_precision_and_recall_are_those_of_pycocotools(seed: int, max_detections: int) -> None:
    rng = np.random.default_rng(seed)
    objects = random_objects(rng)
    found = random_found(rng, objects)
    curves = average_precision(objects, found, CLASSES, max_detections)
    precision, best = by_pycocotools(objects, found, max_detections)
    assert np.abs(curves.precision - precision).max() <= 1e-9
    assert np.abs(curves.recall - best).max() <= 1e-9
    known = precision[0][precision[0] > -1]
    assert curves.summary()["ap50"] == pytest.approx(known.mean(), abs=1e-9)
    assert 0.1 < known.mean() < 0.95


def test_photographs_of_coco_have_the_precision_of_pycocotools(shared_data: Path) -> None:
    path = shared_data / "coco_mini" / "annotations" / "instances_val2017.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    numbers = {image["id"]: n for n, image in enumerate(values["images"])}
    rows = [a for a in values["annotations"] if a["category_id"] <= CLASSES]
    boxes = np.array([a["bbox"] for a in rows])
    boxes[:, 2:] += boxes[:, :2]
    objects = Objects(
        len(numbers),
        np.array([numbers[a["image_id"]] for a in rows]),
        boxes,
        np.array([a["category_id"] - 1 for a in rows]),
        np.array([bool(a["iscrowd"]) for a in rows]),
    )
    assert objects.crowd.any()
    found = random_found(np.random.default_rng(0), objects)
    curves = average_precision(objects, found, CLASSES)
    precision, best = by_pycocotools(objects, found, 100)
    assert np.abs(curves.precision - precision).max() <= 1e-9
    assert np.abs(curves.recall - best).max() <= 1e-9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_detections", [3, 100])
def test_the_bootstraps_matches_give_the_same_numbers(seed: int, max_detections: int) -> None:
    rng = np.random.default_rng(seed)
    objects = random_objects(rng)
    found = random_found(rng, objects)
    matches = match(objects, found, max_detections)
    summary = average_precision(objects, found, CLASSES, max_detections).summary()
    once = np.ones((1, objects.num_images), dtype=int)
    for name, overlaps in (("ap50", [0]), ("ap75", [5]), ("ap", range(10))):
        value = AveragePrecision(matches, ALL, overlaps)(once)[0]
        assert value == pytest.approx(summary[name], abs=1e-9)
    value = AverageRecall(matches, ALL, range(10))(once)[0]
    assert value == pytest.approx(summary["ar"], abs=1e-9)


def test_paired_gains_are_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    objects = random_objects(rng, images=60)
    found = random_found(rng, objects)
    seen = match(objects, found)
    better = Found(
        seen.found.images, seen.found.boxes, seen.found.classes,
        seen.found.scores + 0.2 * seen.right[0],
    )  # fmt: skip
    models = [AveragePrecision(match(objects, part), ALL) for part in (found, better)]
    gain = paired_gain(*models, objects.num_images, 200)
    low, high = gain["interval"]
    assert 0 < low < gain["gain"] < high
    draws = distributions(dict(zip("ab", models, strict=True)), objects.num_images, 200)
    one, other = (interval(values) for values in draws.values())
    assert one is not None and other is not None
    assert high - low < max(one[1] - one[0], other[1] - other[0])


@pytest.mark.parametrize("seed", range(3))
def test_counts_of_images_are_copies_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = random_objects(rng)
    found = random_found(rng, objects)
    # scores are unequal: the order of equal ones depends on the order of the images
    found = Found(found.images, found.boxes, found.classes, rng.random(len(found)))
    counts = rng.integers(0, 4, objects.num_images)
    copies = np.repeat(np.arange(objects.num_images), counts)
    own, hits = (
        [np.flatnonzero(things.images == image) for image in copies] for things in (objects, found)
    )
    rows, seen = np.concatenate(own), np.concatenate(hits)
    more = objects.take(rows)
    many = Objects(
        len(copies),
        np.repeat(np.arange(len(copies)), [len(part) for part in own]),
        more.boxes, more.classes, more.crowd,
    )  # fmt: skip
    again = found.take(seen)
    shifts = np.repeat(np.arange(len(copies)), [len(part) for part in hits])
    # an order of equal scores of copies that the counts also have: by image
    result = Found(shifts, again.boxes, again.classes, again.scores)
    expected = average_precision(many, result, CLASSES)
    matches = match(objects, found)
    for name, overlaps in (("ap50", [0]), ("ap", range(10))):
        value = AveragePrecision(matches, ALL, overlaps)(counts[None])[0]
        # between the copies of a detection, precision is interpolated over one object a copy
        assert value == pytest.approx(expected.summary()[name], abs=0.01)


def test_recall_of_boxes_alone_ignores_their_classes() -> None:
    objects = Objects(
        2,
        np.array([0, 0, 1]),
        np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 10]], float),
        np.array([0, 1, 1]),
        np.array([False, False, False]),
    )
    found = Found(
        np.array([0, 0, 1]),
        np.array([[0, 0, 10, 10], [21, 20, 40, 40], [50, 50, 60, 60]], float),
        np.array([1, 0, 1]),
        np.array([0.5, 0.4, 0.9]),
    )
    matches = match(objects.of_one_class(), found.of_one_class())
    once = np.ones((1, 2), dtype=int)
    assert recall(matches, [0])(once)[0] == pytest.approx(2 / 3)
    assert average_precision(objects, found, 2).summary()["ar"] == 0
    first = match(objects.of_one_class(), found.of_one_class(), max_detections=1)
    assert recall(first, [0])(once)[0] == pytest.approx(1 / 3)


def test_a_class_without_objects_counts_in_no_mean() -> None:
    rng = np.random.default_rng(0)
    objects = random_objects(rng)
    curves = average_precision(objects, random_found(rng, objects), CLASSES)
    assert curves.by_class()[CLASSES - 1] is None
    assert curves.summary(ALL) == curves.summary(range(CLASSES - 1))
    assert curves.summary([CLASSES - 1])["ap50"] is None


def test_no_detections_have_a_precision_of_zero() -> None:
    objects = random_objects(np.random.default_rng(0))
    none = Found.of([(np.empty((0, 4)), np.empty(0), np.empty(0, int))] * objects.num_images)
    assert average_precision(objects, none, CLASSES).summary()["ap50"] == 0
    once = np.ones((1, objects.num_images), dtype=int)
    assert AveragePrecision(match(objects, none), ALL)(once)[0] == 0


def test_classes_that_were_not_looked_for_count_nowhere() -> None:
    """The rules of LVIS: class 1 is known to be absent from image 0, class 2 was not looked for,
    and class 0 has more objects than boxes.
    """
    box = np.array([[0, 0, 10, 10]], float)
    objects = Objects(
        1, np.array([0]), box, np.array([0]), np.array([False]),
        absent={0: {1}}, incomplete={0: {0}},
    )  # fmt: skip
    away = box + 50
    found = Found(
        np.array([0, 0, 0, 0]),
        np.concatenate([away, box, away, away]),
        np.array([0, 0, 1, 2]),
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    matches = match(objects, found)
    assert sorted(matches.found.classes.tolist()) == [0, 0, 1]
    curves = average_precision(objects, found, 3)
    assert curves.summary()["ap50"] == pytest.approx(1)
    once = np.ones((1, 1), dtype=int)
    assert AveragePrecision(matches, range(3))(once)[0] == pytest.approx(1)


def test_many_classes_are_evaluated_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    objects = random_objects(rng)
    found = random_found(rng, objects)
    whole = average_precision(objects, found, CLASSES)
    monkeypatch.setattr("kdeov.evaluation.detection.BLOCK", 2 * objects.num_images)
    parts = average_precision(objects, found, CLASSES)
    assert np.array_equal(whole.precision, parts.precision)
    assert np.array_equal(whole.recall, parts.recall)
