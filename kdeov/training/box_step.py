"""One step of training a box head on the global batch: all micro-batches of all ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.detection.head import BoxHead, make_anchors
from kdeov.detection.losses import BoxLoss, BoxTargets, Lookalikes, anchor_roles
from kdeov.models.student import VisualStudent
from kdeov.training.batch_norm import RunningStatistics
from kdeov.training.distributed import sum_over_ranks


class BoxStep:
    """The losses and gradients of a step. Trunk and projection stay as they are, to the bit.

    Each micro-batch is normalised by its own batch statistics and has its own loss, and the loss
    of the step is their mean: the result does not depend on the number of ranks.

    Args:
        student: Frozen by this class, for good.
        head: The box head; in training mode when `backward` is called.
        loss: Of boxes and objectness.
        texts: [T, D], unit embeddings of texts that regions may look like, or None.
        threshold: Cosine with any of them from which a region without a box is no background.
        foreground: See `anchor_roles`.
    """

    def __init__(
        self,
        student: VisualStudent,
        head: BoxHead,
        loss: BoxLoss | None = None,
        texts: Tensor | None = None,
        threshold: float = 1.0,
        foreground: bool = False,
    ) -> None:
        self.student, self.head = student.requires_grad_(False).eval(), head
        self.loss = BoxLoss() if loss is None else loss
        self.texts, self.threshold, self.foreground = texts, threshold, foreground
        self.statistics = RunningStatistics(head)

    def backward(
        self, micro_batches: Iterable[tuple[Tensor, BoxTargets]], count: int
    ) -> dict[str, Tensor]:
        """Adds the gradients of the global batch to the parameters, equal on all ranks.

        Args:
            micro_batches: Normalised pixels [B, 3, S, S] and boxes; this rank's share.
            count: Micro-batches of the global batch, on all ranks.

        Returns:
            The named terms, their `total`, and `ignored`, the anchors an image that are no
            background because they look like some text; detached. Their sum over the ranks is the
            value for the global batch.
        """
        self.statistics.reset()  # the previous step may have raised half-way
        sums: dict[str, Tensor] = {}
        for pixels, targets in micro_batches:
            terms = self._terms(pixels, targets)
            (terms["total"] / count).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / count
        self.statistics.join()
        gradients = [p.grad for p in self.head.parameters() if p.grad is not None]
        total = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(
            gradients, total.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))
        return sums

    def _terms(self, pixels: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        kind = pixels.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            with torch.no_grad():
                features = self.student.backbone(pixels)
            self.statistics.restore()
            boxes, logits = self.head(features)
            self.statistics.collect()
        boxes, logits = boxes.float(), logits.float()
        features = [level.float() for level in features]
        strides = self.student.backbone.strides
        anchors = make_anchors(features, strides)
        lookalikes = None
        if self.texts is not None:

            def embed(regions: Tensor) -> Tensor:
                return F.normalize(
                    self.student.projection.regions(features, regions, strides), dim=-1
                )

            lookalikes = Lookalikes(embed, self.texts, self.threshold)
        roles = anchor_roles(
            boxes.detach(), logits.detach(), anchors, strides, targets, lookalikes, self.foreground
        )
        terms = self.loss(boxes, logits, anchors, roles)
        return {**terms, "ignored": roles.ignored / len(pixels)}
