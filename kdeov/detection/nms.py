"""Non-maximum suppression of each class by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Detections(NamedTuple):
    """The detections of one image, best first.

    Attributes:
        boxes: [n, 4], left, top, right, bottom in pixels of the image.
        scores: [n].
        classes: [n], numbers of the classes.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def class_wise_nms(
    boxes: Tensor, scores: Tensor, iou: float, score_min: float, max_detections: int
) -> Detections:
    """Every class keeps its best boxes, and drops those that overlap a better one of it by more
    than `iou`. A box may have several classes; no class affects another but by
    `max_detections`.

    Args:
        boxes: [P, 4].
        scores: [P, K] of each box for each class.
        iou: Overlap (IoU) above which the lower score is dropped.
        score_min: Lower scores are no detections.
        max_detections: Detections that stay, the best of all classes.
    """
    from torchvision.ops import nms

    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in torch.nonzero((scores >= score_min).any(0)).flatten().tolist():
        candidates = torch.nonzero(scores[:, number] >= score_min).flatten()
        values = scores[candidates, number]
        kept = nms(boxes[candidates].float(), values.float(), iou)[:max_detections]
        found.append((values[kept], candidates[kept], torch.full_like(kept, number)))
    if not found:
        none = torch.empty(0, dtype=torch.long, device=boxes.device)
        return Detections(boxes[none], scores.new_empty(0), none)
    values, places, classes = (torch.cat(part) for part in zip(*found, strict=True))
    order = values.sort(descending=True, stable=True).indices[:max_detections]
    return Detections(boxes[places[order]], values[order], classes[order])
