"""One step of distillation on the joined batch: all micro-batches of all ranks, with the losses and
the gradients that one process would have that holds the whole batch.

Losses that compare images with each other need all embeddings before the first gradient. So the
step embeds every micro-batch, takes the gradient of the losses at the joined embeddings, and hands
it back through each micro-batch (gradient caching, Gao et al., 2021, arXiv:2101.06983). Losses of
single images are summed up micro-batch by micro-batch, which costs no second pass.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdeov.models.fusion import fusion_loss
from kdeov.models.student import StudentOutput, VisualStudent
from kdeov.training.batch_norm import RunningStatistics
from kdeov.training.distributed import gather, sum_over_ranks, world
from kdeov.training.losses import ALL, COUPLED, NEEDS_TEXT, FeatureAlignmentLoss


class TrainingForward(nn.Module):
    """A forward pass for training; what DDP wraps.

    Args:
        student: Trained.
        dense: Whether fusion is trained too and needs the dense map.
    """

    def __init__(self, student: VisualStudent, dense: bool) -> None:
        super().__init__()
        self.student, self.dense = student, dense

    def forward(self, pixels: Tensor) -> StudentOutput:
        """Normalised pixels [B, 3, H, W] to float32 outputs; the dense map is empty where nobody
        needs it.
        """
        kind = pixels.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            if self.dense:
                embedding, dense = self.student.with_dense(pixels)
                return StudentOutput(_full(embedding), _full(dense))
            return StudentOutput(_full(self.student(pixels)), pixels.new_empty(0))


def _full(values: Tensor) -> Tensor:
    """At least single precision, whatever autocast made of it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class GradCacheStep:
    """Losses and gradients of a step.

    Args:
        student: Trained; in training mode when `backward` is called.
        loss: Of embeddings.
        fusion_weight: Of the fusion loss; at 0 the fusion module is frozen.
        micro_batch_size: Images a forward pass, whose batch statistics are their own; None takes a
            rank's whole share. Where it is the same, so is the result for any number of ranks.
        shares: Images of the joined batch that each rank holds, multiples of `micro_batch_size`; None
            where all hold the same.
        compile: Whether torch.compile makes the passes faster.

    Attributes:
        whole_matrix: Images a step up to which every rank holds all of their similarities (64 MB
            at 4,096); beyond, it holds those of its own images with all others.

    Raises:
        KdeovError: From the losses, where inputs do not fit together.
    """

    whole_matrix = 4096

    def __init__(
        self,
        student: VisualStudent,
        loss: FeatureAlignmentLoss,
        fusion_weight: float = 0.0,
        micro_batch_size: int | None = None,
        shares: Sequence[int] | None = None,
        compile: bool = False,
    ) -> None:
        student.fusion.requires_grad_(bool(fusion_weight))
        self.student, self.loss, self.fusion_weight = student, loss, fusion_weight
        self.micro_batch_size, self.shares = micro_batch_size, shares
        self.coupled = any(name in COUPLED for name in loss.weights)
        self.needs_text = bool(fusion_weight) or any(name in NEEDS_TEXT for name in loss.weights)
        self.statistics = RunningStatistics(student)
        self.model: nn.Module = TrainingForward(student, bool(fusion_weight))
        if compile:
            self.model.compile()  # in place: names of parameters stay
        if world()[1] > 1:
            device = next(student.parameters()).device
            with warnings.catch_warnings():  # new names for it are not in every torch we take
                warnings.simplefilter("ignore", FutureWarning)
                self.model = DistributedDataParallel(
                    self.model,
                    device_ids=[device] if device.type == "cuda" else None,
                    broadcast_buffers=False,  # statistics are joined once a step
                    gradient_as_bucket_view=True,
                )

    def backward(self, pixels: Tensor, teacher: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Adds the gradients of the joined batch to the parameters, equal on all ranks.

        Args:
            pixels: [B, 3, H, W], normalised; this rank's share of the joined batch.
            teacher: [B, D], the teacher's vectors of these images.
            texts: [B, D], unit vectors of a text each; [B, 0] where no loss needs them.

        Returns:
            The named terms and their `total`, detached. Their mean over the ranks is that of the
            joined batch.
        """
        self.statistics.reset()  # an earlier step may have ended amid its micro-batches
        rank, ranks = world()
        sizes = self.shares or [len(pixels)] * ranks
        size = self.micro_batch_size or len(pixels)
        micro = list(zip(pixels.split(size), teacher.split(size), texts.split(size), strict=True))
        all_text_embeddings = gather(texts, sizes) if self.needs_text else texts
        groups = [micro] if self.coupled else [[part] for part in micro]
        # DDP averages over the ranks, of which one with more images has more to say
        share = len(pixels) * ranks / sum(sizes) / len(groups)
        sums: dict[str, Tensor] = {}
        for number, group in enumerate(groups):
            first = sum(sizes[:rank]) + number * size
            terms = self._group(
                group, all_text_embeddings, sizes, first, share, last=group is groups[-1]
            )
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        self.statistics.join()
        self._average_loss_gradients()
        return sums

    def _group(
        self,
        group: list[tuple[Tensor, Tensor, Tensor]],
        all_text_embeddings: Tensor,
        sizes: Sequence[int],
        first: int,
        share: float,
        last: bool,
    ) -> dict[str, Tensor]:
        """Backward pass of micro-batches whose losses belong together, the first of whose images
        is number `first` of the joined batch.
        """
        kept = None
        # one pass serves the losses and the gradients; all ranks do alike, since both exchange
        # tensors in their turn
        if not self.coupled or max(sizes) == len(group[0][0]):
            with self._synchronised(last):
                kept = self._forward(group[0][0])
            embeddings = kept.embedding
        else:
            with torch.no_grad():
                embeddings = torch.cat([self._forward(p, look=True)[0] for p, _, _ in group])
        leaf = embeddings.detach().requires_grad_()
        terms, weight = self._losses(leaf, group, all_text_embeddings, sizes)
        weight = share if weight is None else weight
        (weight * terms["total"]).backward()
        assert leaf.grad is not None
        fusion = torch.zeros((), device=leaf.device)
        slopes = leaf.grad.split([len(p) for p, _, _ in group])
        for place, ((pixels, _, texts), slope) in enumerate(zip(group, slopes, strict=True)):
            with self._synchronised(last and place == len(group) - 1):
                output = kept or self._forward(pixels)
                tensors, gradients = [output.embedding], [slope]
                if self.fusion_weight:
                    rows = torch.arange(first, first + len(texts), device=texts.device)
                    value = fusion_loss(
                        self.student.fusion, output.dense, texts, all_text_embeddings, rows
                    )
                    tensors.append(value * (self.fusion_weight * share / len(group)))
                    gradients.append(torch.ones_like(value))
                    fusion = fusion + value.detach() * share / len(group)
                torch.autograd.backward(tensors, gradients)
            first += len(texts)
        found = {name: weight * value.detach() for name, value in terms.items()}
        if self.fusion_weight:
            found |= {"fusion": fusion, "total": found["total"] + self.fusion_weight * fusion}
        return found

    def _average_loss_gradients(self) -> None:
        """Temperatures of losses are outside of DDP, and each rank has seen its own rows alone."""
        for parameter in self.loss.parameters():
            if parameter.grad is not None and world()[1] > 1:
                parameter.grad = sum_over_ranks(parameter.grad) / world()[1]

    def _losses(
        self,
        leaf: Tensor,
        group: list[tuple[Tensor, Tensor, Tensor]],
        all_text_embeddings: Tensor,
        sizes: Sequence[int],
    ) -> tuple[dict[str, Tensor], float | None]:
        """The terms, and their weight where it is not this rank's share."""
        teacher = torch.cat([part[1] for part in group])
        if not self.coupled:
            return self.loss(leaf, teacher), None
        joined, targets = gather(leaf, sizes), gather(teacher, sizes)
        # where all fit, each rank answers for the whole batch, whose gradient is then rounded alike
        # for any number of ranks; else for its own rows
        if len(joined) <= self.whole_matrix:
            return self.loss(joined, targets, all_text_embeddings, ALL), 1.0
        first = sum(sizes[: world()[0]])
        return self.loss(
            joined, targets, all_text_embeddings, slice(first, first + len(leaf))
        ), None

    def _forward(self, pixels: Tensor, look: bool = False) -> StudentOutput:
        """One micro-batch; a first look at it leaves no trace in the statistics."""
        self.statistics.restore()
        output = (self.student_pass if look else self.model)(pixels)
        if not look:
            self.statistics.collect()
        return output

    @property
    def student_pass(self) -> TrainingForward:
        """The model without its DDP."""
        model: Any = self.model
        return getattr(model, "module", model)

    def _synchronised(self, now: bool) -> contextlib.AbstractContextManager:
        """Gradients of the ranks are averaged in the last backward pass of a step alone."""
        if now or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()
