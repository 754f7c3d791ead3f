"""Scores and suppression without torch: those of PyTorch, for vocabularies of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeov.detection.nms import class_wise_nms as torch_nms
from kdeov.detection.scores import ScoreParams
from kdeov.detection.scores import detection_scores as torch_scores
from kdeov.runtime import detections as module
from kdeov.runtime.card import DetectionCard
from kdeov.runtime.detections import (
    Regions,
    Selection,
    box_iou,
    class_wise_nms,
    detection_scores,
    detections,
)

CARD = DetectionCard(64, 20.0, -6.0, 0.4)
ANY = Selection(min_score=0.0, max_detections=10**9)


def drawn(count, dim=16, seed=0):
    """Proposals with many overlaps, and equal ones among them."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(4, 24, (count, 2))], axis=1)
    boxes[count // 2] = boxes[0]
    embeddings = generator.standard_normal((count, dim))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    objectness = np.sort(generator.uniform(0, 1, count))[::-1]
    values = (boxes, objectness.copy(), embeddings, boxes)
    return Regions(*(x.astype(np.float32) for x in values), size=(64, 64))


def unit_classes(count, dim=16, seed=1):
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def names(count):
    return [f"class {number}" for number in range(count)]


@pytest.mark.parametrize("beta", [0.0, 0.35, 1.0])
def test_scores_are_those_of_pytorch(beta):
    generator = np.random.default_rng(0)
    objectness = np.array([0, 1e-30, 1e-6, 0.3, 1], np.float32)
    cosines = generator.uniform(-1, 1, (5, 7)).astype(np.float32)
    found = detection_scores(objectness, cosines, DetectionCard(64, 90.0, -20.0, beta))
    wanted = torch_scores(
        torch.from_numpy(objectness), torch.from_numpy(cosines), ScoreParams(90.0, -20.0, beta)
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("min_score", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("count", [1, 40, 300])
def test_objects_are_those_of_pytorchs_suppression(min_score, count):
    regions, classes = drawn(count), unit_classes(12)
    selection = Selection(min_score=min_score, nms_iou=0.45, max_detections=50)
    found = detections(regions, classes, names(12), CARD, selection)
    scores = detection_scores(regions.objectness, regions.embeddings @ classes.T, CARD)
    wanted = torch_nms(
        torch.from_numpy(regions.boxes), torch.from_numpy(scores), 0.45, min_score, 50
    )
    np.testing.assert_array_equal(found.classes, wanted.classes.numpy())
    np.testing.assert_array_equal(found.boxes, wanted.boxes.numpy())
    np.testing.assert_array_equal(found.scores, wanted.scores.numpy())
    assert found.labels == [f"class {number}" for number in found.classes]


def test_a_class_suppresses_no_other_class():
    overlaps = np.ones((2, 2), bool)
    kept = class_wise_nms(np.array([[0.9, 0.1], [0.8, 0.2]]), overlaps, 0.0)
    assert kept.tolist() == [[True, False], [False, True]]


def test_overlaps_are_those_of_torchvision():
    from torchvision.ops import box_iou as wanted

    boxes = drawn(60).boxes
    np.testing.assert_allclose(box_iou(boxes), wanted(*[torch.from_numpy(boxes)] * 2), atol=1e-6)
    assert box_iou(np.zeros((2, 4), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_a_thousand_more_classes_change_no_score():
    regions, classes = drawn(100), unit_classes(3)
    few = detections(regions, classes, names(3), CARD, ANY)
    more = np.concatenate([classes, unit_classes(1000, seed=2)])
    many = detections(regions, more, names(1003), CARD, ANY)
    same = many.classes < 3
    np.testing.assert_array_equal(many.classes[same], few.classes)
    np.testing.assert_array_equal(many.boxes[same], few.boxes)
    np.testing.assert_allclose(many.scores[same], few.scores, rtol=0, atol=1e-6)


def test_blocks_of_classes_give_what_one_block_gives(monkeypatch):
    regions, classes = drawn(30), unit_classes(50)
    whole = detections(regions, classes, names(50), CARD, Selection(0.1, 0.5, 40))
    monkeypatch.setattr(module, "SCORES", 30 * 7)
    blocks = detections(regions, classes, names(50), CARD, Selection(0.1, 0.5, 40))
    assert whole.labels == blocks.labels
    np.testing.assert_allclose(whole.scores, blocks.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [10**6, 7])
def test_a_box_may_have_its_best_class_alone(monkeypatch, block):
    regions, classes = drawn(30), unit_classes(20)
    monkeypatch.setattr(module, "SCORES", 30 * block)
    limits = Selection(min_score=0.0, nms_iou=0.3, max_detections=100, one_class=True)
    found = detections(regions, classes, names(20), CARD, limits)
    overlaps = box_iou(found.boxes) > 0.3
    assert overlaps.sum() == len(found.boxes) > 3  # each box meets itself alone
    scores = detection_scores(regions.objectness, regions.embeddings @ classes.T, CARD)
    for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True):
        (row, *_) = np.flatnonzero((regions.boxes == box).all(axis=1))
        assert (number, score) == (scores[row].argmax(), pytest.approx(scores[row].max()))
    assert found.scores[0] == pytest.approx(scores.max())


def test_no_proposal_gives_no_object():
    boxes = np.empty((0, 4), np.float32)
    empty = Regions(boxes, boxes[:, 0], np.empty((0, 16), np.float32), boxes, (9, 9))
    for limits in (ANY, Selection(one_class=True)):
        found = detections(empty, unit_classes(2), names(2), CARD, limits)
        assert (found.boxes.shape, found.scores.shape, found.labels) == ((0, 4), (0,), [])


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"min_score": 1.1}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"nms_iou": "0.5"}, "nms_iou"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_detections": True}, "max_detections"),
    ],
)
def test_a_selection_out_of_range_is_named(values, word, mistake):
    with mistake(word):
        Selection(**values)
