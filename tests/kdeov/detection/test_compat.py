"""What training takes from inside ultralytics."""

from __future__ import annotations

import torch
from torchvision.ops import complete_box_iou_loss

from kdeov.detection.compat import TOPK, assign, complete_iou

POINTS = torch.stack(torch.meshgrid(*[torch.arange(8) * 8 + 4.0] * 2, indexing="xy"), -1).view(
    -1, 2
)
BOXES = torch.tensor([[[0.0, 0, 40, 40], [44, 44, 60, 60]]])


def test_the_complete_overlap_is_that_of_torchvision() -> None:
    torch.manual_seed(0)
    start = torch.rand(2, 30, 2) * 50
    one, two = torch.cat([start, start + torch.rand(2, 30, 2) * 40 + 1], dim=-1)
    torch.testing.assert_close(
        complete_iou(one, two), 1 - complete_box_iou_loss(one, two), atol=1e-5, rtol=1e-4
    )


def test_anchors_inside_a_box_learn_it_the_better_the_more_they_overlap() -> None:
    predicted = torch.cat([POINTS - 20, POINTS + 20], dim=1)[None]
    objectness = torch.full((1, len(POINTS)), 0.5)
    found = assign(predicted, objectness, POINTS, BOXES, torch.tensor([[True, True]]), (8, 16, 32))
    assert 1 <= found.positive.sum() <= 2 * TOPK
    for box in BOXES[0]:
        mine = found.positive[0] & (found.boxes[0] == box).all(-1)
        inside = ((box[:2] < POINTS) & (box[2:] > POINTS)).all(-1)
        assert mine.any()
        assert inside[mine].all()
    best = found.weights[0].argmax()
    assert POINTS[best].tolist() == [20, 20]  # the center of the larger box
    assert not found.weights[~found.positive].any()


def test_rows_of_padding_are_assigned_to_no_anchor() -> None:
    predicted = torch.cat([POINTS - 20, POINTS + 20], dim=1)[None]
    objectness = torch.full((1, len(POINTS)), 0.5)
    for boxes, present in (
        (BOXES, torch.tensor([[False, False]])),
        (BOXES[:, :0], torch.zeros(1, 0, dtype=torch.bool)),
    ):
        found = assign(predicted, objectness, POINTS, boxes, present, (8, 16, 32))
        assert not found.positive.any()
        assert not found.weights.any()
