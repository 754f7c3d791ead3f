"""Suppression of each class by itself."""

from __future__ import annotations

import torch

from kdeov.detection.nms import class_wise_nms

BOXES = torch.tensor(
    [[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50]]  # the first two overlap by 0.82
)


def test_a_class_keeps_the_best_of_overlapping_boxes_and_no_other_class_matters() -> None:
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.3, 0.0]])
    found = class_wise_nms(BOXES, scores, iou=0.5, score_min=0.1, max_detections=10)
    assert found.classes.tolist() == [0, 1, 0]
    assert found.scores.tolist() == scores[[0, 1, 2], [0, 1, 0]].tolist()
    assert found.boxes.tolist() == BOXES[[0, 1, 2]].tolist()


def test_boxes_that_overlap_less_than_the_limit_stay() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.3]])
    assert len(class_wise_nms(BOXES, scores, 0.85, 0.1, 10).scores) == 3
    assert len(class_wise_nms(BOXES, scores, 0.80, 0.1, 10).scores) == 2


def test_the_best_of_all_classes_stay() -> None:
    scores = torch.tensor([[0.9, 0.2], [0.1, 0.7], [0.3, 0.6]])
    found = class_wise_nms(BOXES, scores, 0.5, 0.05, max_detections=2)
    assert found.classes.tolist() == [0, 1]
    assert found.scores.tolist() == scores[[0, 1], [0, 1]].tolist()


def test_nothing_above_the_least_score_is_no_detection() -> None:
    found = class_wise_nms(BOXES, torch.full((3, 2), 0.01), 0.5, 0.1, 10)
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.classes) == 0
