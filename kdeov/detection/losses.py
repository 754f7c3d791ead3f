"""The losses of a box head, and which anchors take part in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.detection.boxes import iou_matrix, paired_iou
from kdeov.detection.compat import assign, complete_iou
from kdeov.detection.head import Anchors

CLEAR_OVERLAP = 0.3
"""Overlap with every box below which an anchor's box is a clear negative."""
MIN_INSPECTED, INSPECTED_SHARE = 16, 1 / 16
"""Negatives of an image whose regions are compared with texts: those of the highest objectness, of
which alone the loss is more than a trace."""


class BoxTargets(NamedTuple):
    """The true boxes of a micro-batch, padded.

    Attributes:
        boxes: [B, M, 4], pixels of the network's input.
        present: [B, M], False where a row is padding.
        crowd: [B, M], True where a box is around many objects: nothing is learned inside it.
    """

    boxes: Tensor
    present: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Lookalikes:
    """Regions that some text describes though no box is there: they may be objects of a class
    without boxes, so they are no background.

    Attributes:
        embed: Boxes [B, R, 4] to unit embeddings of their regions [B, R, D].
        texts: [T, D], unit embeddings.
        threshold: Cosine with any of the texts from which a region is left out.
    """

    embed: Callable[[Tensor], Tensor]
    texts: Tensor
    threshold: float

    def among(self, boxes: Tensor) -> Tensor:
        """Which of the boxes [B, R, 4] look like some text: [B, R]."""
        return (self.embed(boxes) @ self.texts.T).amax(dim=-1) >= self.threshold


class AnchorRoles(NamedTuple):
    """What each anchor learns.

    Attributes:
        positive: [B, N], anchors that learn a box and its quality.
        negative: [B, N], anchors that learn a quality of 0. The rest learns nothing.
        boxes: [B, N, 4], the boxes of positive anchors.
        weights: [B, N], see `Assignment`.
        quality: [B, N], overlap (IoU) of a positive anchor's box with the true one.
        ignored: Number of anchors that are no negatives because they look like some text.
    """

    positive: Tensor
    negative: Tensor
    boxes: Tensor
    weights: Tensor
    quality: Tensor
    ignored: Tensor


@torch.no_grad()
def anchor_roles(
    predicted: Tensor,
    logits: Tensor,
    anchors: Anchors,
    strides: tuple[int, ...],
    targets: BoxTargets,
    lookalikes: Lookalikes | None = None,
    foreground: bool = False,
) -> AnchorRoles:
    """Sorts anchors into positives, clear negatives and those that learn nothing.

    Args:
        predicted: [B, N, 4], pixels.
        logits: [B, N], of the objectness.
        anchors: Of the levels.
        strides: Of the levels.
        targets: The true boxes.
        lookalikes: Texts that keep regions from becoming background.
        foreground: Whether the objectness is learned as foreground against background (a target
            of 1), to compare with.
    """
    real = targets.present & ~targets.crowd
    assigned = assign(predicted, logits.sigmoid(), anchors.points, targets.boxes, real, strides)
    overlaps = iou_matrix(predicted, targets.boxes)  # [B, N, M]
    nearest = (overlaps * real[:, None, :]).amax(dim=-1) if overlaps.shape[-1] else logits * 0
    negative = ~assigned.positive & (nearest < CLEAR_OVERLAP)
    negative &= ~_inside(anchors.points, targets.boxes, targets.crowd & targets.present)
    ignored = torch.zeros_like(negative)
    if lookalikes is not None:
        count = max(MIN_INSPECTED, round(logits.shape[1] * INSPECTED_SHARE))
        hard = logits.masked_fill(~negative, -torch.inf).topk(min(count, logits.shape[1]), dim=1)
        boxes = predicted.gather(1, hard.indices.unsqueeze(-1).expand(-1, -1, 4))
        found = lookalikes.among(boxes) & hard.values.isfinite()
        ignored.scatter_(1, hard.indices, found)
    quality = paired_iou(predicted, assigned.boxes) * assigned.positive
    if foreground:
        quality = assigned.positive.to(quality.dtype)
    return AnchorRoles(
        assigned.positive, negative & ~ignored, assigned.boxes, assigned.weights, quality,
        ignored.sum(),
    )  # fmt: skip


@dataclass(frozen=True)
class BoxLoss:
    """The loss of boxes and objectness; each term is a mean weighted by positives, as in YOLO.

    Attributes:
        box: Weight of 1 - CIoU.
        sides: Weight of the distance (L1) of the sides, in strides.
        quality: Weight of the cross-entropy of the objectness.
    """

    box: float = 7.5
    sides: float = 1.5
    quality: float = 0.5

    def __call__(
        self, predicted: Tensor, logits: Tensor, anchors: Anchors, roles: AnchorRoles
    ) -> dict[str, Tensor]:
        """The terms `box`, `sides`, `quality` and their `total`.

        Args:
            predicted: [B, N, 4], pixels.
            logits: [B, N].
            anchors: Of the levels.
            roles: Of the anchors.
        """
        mask = roles.positive
        weights = roles.weights[mask]
        total = weights.sum().clamp(min=1)
        overlap = complete_iou(predicted[mask], roles.boxes[mask])
        strides = anchors.strides.expand(mask.shape)[mask]
        error = (predicted[mask] - roles.boxes[mask]).abs().mean(-1) / strides
        entropy = F.binary_cross_entropy_with_logits(logits, roles.quality, reduction="none")
        learned = roles.positive | roles.negative
        terms = {
            "box": ((1 - overlap) * weights).sum() / total,
            "sides": (error * weights).sum() / total,
            "quality": (entropy * learned).sum() / total,
        }
        weighted = {"box": self.box, "sides": self.sides, "quality": self.quality}
        terms["total"] = torch.stack([weighted[name] * terms[name] for name in weighted]).sum()
        return terms


def _inside(points: Tensor, boxes: Tensor, chosen: Tensor) -> Tensor:
    """Which of the points [N, 2] lie in any of the chosen boxes [B, M, 4]: [B, N]."""
    x, y = points[:, 0, None], points[:, 1, None]
    left, top, right, bottom = (side[:, None, :] for side in boxes.unbind(-1))
    within = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return (within & chosen[:, None, :]).any(-1)
