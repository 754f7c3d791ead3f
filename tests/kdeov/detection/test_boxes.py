"""Overlaps, and boxes that cannot be used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from kdeov.detection.boxes import grow, iou_matrix, usable_box


def test_overlaps_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    start = torch.rand(40, 2) * 50
    boxes = torch.cat([start, start + torch.rand(40, 2) * 30 + 1], dim=1)
    torch.testing.assert_close(
        iou_matrix(boxes[None, :30], boxes[None, 30:])[0], box_iou(boxes[:30], boxes[30:])
    )


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([120, 10, 140, 30], "outside"),
        ([10, 10, 10, 30], "no area"),
        ([10, 10, 10.4, 30], "smaller than a pixel"),
        ([10, math.nan, 20, 30], "not finite"),
        ([10, 10, math.inf, 30], "not finite"),
        ([10, 10, 20], "not four numbers"),
        (None, "not four numbers"),
        ([60, 10, 20, 30], "left, top, width, height"),  # of an image that is 100 x 80
        ([60, 60, 50, 30], "no area"),
    ],
)
def test_a_box_that_cannot_be_used_is_named(box: Any, problem: str) -> None:
    assert usable_box(box, (100, 80)) == (None, problem)


def test_a_box_that_is_partly_outside_is_clipped_and_named() -> None:
    assert usable_box([-5, 10, 30, 90], (100, 80)) == ([0, 10, 30, 80], "partly outside")
    assert usable_box([0, 10, 30, 80.5], (100, 80)) == ([0, 10, 30, 80], None)


def test_a_margin_is_a_share_of_each_side() -> None:
    assert grow(torch.tensor([10.0, 20, 30, 60]), 0.25).tolist() == [5, 10, 35, 70]
