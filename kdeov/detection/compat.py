"""Parts of ultralytics that training takes from inside it.

Checked with ultralytics 8.4 (`tests/kdeov/detection/test_compat.py`): the assigner of task-aligned
learning (TOOD, Feng et al., 2021, arXiv:2108.07755) and the complete overlap (CIoU, Zheng et al.,
2020, arXiv:1911.08287).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdeov.models.yolo import import_ultralytics

TOPK, SCORE_POWER, OVERLAP_POWER = 10, 0.5, 6.0  # as YOLOv8 to YOLO26 train


class Assignment(NamedTuple):
    """Which anchors learn which box.

    Attributes:
        boxes: [B, N, 4], the box of each positive anchor.
        weights: [B, N], how well a positive anchor does among those of its box, from 0 to 1; 0
            for others.
        positive: [B, N].
    """

    boxes: Tensor
    weights: Tensor
    positive: Tensor


def assign(
    predicted: Tensor,
    objectness: Tensor,
    points: Tensor,
    boxes: Tensor,
    present: Tensor,
    strides: Sequence[int],
) -> Assignment:
    """Assigns boxes to anchors by objectness and overlap of what the anchors predict.

    Args:
        predicted: [B, N, 4], pixels.
        objectness: [B, N], from 0 to 1.
        points: [N, 2], centers of the anchors.
        boxes: [B, M, 4], the true boxes, padded.
        present: [B, M], False where a row is padding.
        strides: Of the levels.
    """
    if not boxes.shape[1]:
        none = torch.zeros_like(objectness)
        return Assignment(torch.zeros_like(predicted), none, none.bool())
    assigner = import_ultralytics("utils.tal").TaskAlignedAssigner(
        topk=min(TOPK, len(points)),
        num_classes=1,
        alpha=SCORE_POWER,
        beta=OVERLAP_POWER,
        stride=list(strides),
    )
    mask = present.unsqueeze(-1).to(predicted.dtype)
    _, targets, scores, positive, _ = assigner(
        objectness.detach().unsqueeze(-1),
        predicted.detach(),
        points,
        torch.zeros_like(mask),
        boxes,
        mask,
    )
    return Assignment(targets, scores.squeeze(-1), positive)


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """The complete overlap (CIoU) of each pair of boxes [..., 4], pixels: [...]."""
    metrics = import_ultralytics("utils.metrics")
    return metrics.bbox_iou(first, second, xywh=False, CIoU=True).squeeze(-1)
