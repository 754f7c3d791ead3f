"""One step of distillation on the global batch, which is all micro-batches of all ranks: the losses
and gradients equal those of one process that holds the whole batch.

Losses that compare images with each other need all embeddings before the first gradient. So the
step embeds every micro-batch, takes the gradient of the losses with respect to all embeddings, and
backpropagates it through each micro-batch (gradient caching, Gao et al., 2021, arXiv:2101.06983).
Losses of single images are summed micro-batch by micro-batch, without a second forward pass.
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
from kdeov.training.distributed import gather, get_rank, get_world_size, mean_over_ranks
from kdeov.training.losses import ALL_ROWS, COUPLED, NEEDS_TEXT, FeatureAlignmentLoss


class TrainingForward(nn.Module):
    """The forward pass of training, as a module for DDP to wrap.

    Args:
        student: The student.
        dense: Whether the dense map is computed too, which the fusion loss takes.
    """

    def __init__(self, student: VisualStudent, dense: bool) -> None:
        super().__init__()
        self.student, self.dense = student, dense

    def forward(self, pixels: Tensor) -> StudentOutput:
        """Normalised pixels [B, 3, H, W] to float32 outputs; the dense map is empty unless `dense`
        is set.
        """
        kind = pixels.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            if self.dense:
                embedding, dense = self.student.with_dense(pixels)
                return StudentOutput(_at_least_float32(embedding), _at_least_float32(dense))
            return StudentOutput(_at_least_float32(self.student(pixels)), pixels.new_empty(0))


def _at_least_float32(values: Tensor) -> Tensor:
    """Half precision, which autocast gives, to single; double stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class GradCacheStep:
    """The losses and gradients of a step.

    Args:
        student: The student; in training mode when `backward` is called.
        loss: Loss of embeddings.
        fusion_weight: Weight of the fusion loss; at 0 the fusion module is frozen.
        micro_batch_size: Images per forward pass, normalised by their own batch statistics; None
            takes a rank's whole share. The result depends on it, and not on the number of ranks.
        shares: Images of the global batch on each rank, multiples of `micro_batch_size`; None
            where all ranks have equally many.
        compile: Whether the forward pass goes through torch.compile.

    Attributes:
        max_full_matrix: Global batch size up to which every rank holds the similarities of all
            images (64 MB at 4,096); beyond, it holds those of its own images with all others.

    Raises:
        KdeovError: From the losses, where inputs do not fit together.
    """

    max_full_matrix = 4096

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
        if get_world_size() > 1:
            device = next(student.parameters()).device
            with warnings.catch_warnings():  # of arguments whose new names older torch lacks
                warnings.simplefilter("ignore", FutureWarning)
                self.model = DistributedDataParallel(
                    self.model,
                    device_ids=[device] if device.type == "cuda" else None,
                    broadcast_buffers=False,  # `RunningStatistics` exchanges them once a step
                    gradient_as_bucket_view=True,
                )

    def backward(self, pixels: Tensor, teacher: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Adds the gradients of the global batch to the parameters, equal on all ranks.

        Args:
            pixels: [B, 3, H, W], normalised; this rank's share of the global batch.
            teacher: [B, D], the teacher's embeddings of these images.
            texts: [B, D], a unit text embedding per image; [B, 0] where no loss takes texts.

        Returns:
            The named terms and their `total`, detached. Their mean over the ranks is the value for
            the global batch.
        """
        self.statistics.reset()  # the previous step may have raised half-way
        rank, ranks = get_rank(), get_world_size()
        sizes = self.shares or [len(pixels)] * ranks
        size = self.micro_batch_size or len(pixels)
        micro = list(zip(pixels.split(size), teacher.split(size), texts.split(size), strict=True))
        all_text_embeddings = gather(texts, sizes) if self.needs_text else texts
        groups = [micro] if self.coupled else [[part] for part in micro]
        # weight by local batch size: DDP averages ranks equally
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
        """Backward pass of micro-batches whose losses are computed together; their first image is
        number `first` of the global batch.
        """
        kept = None
        # a single micro-batch needs one forward pass; all ranks must decide alike, as the passes
        # exchange tensors
        if not self.coupled or max(sizes) == len(group[0][0]):
            with self._synchronize(last):
                kept = self._forward(group[0][0])
            embeddings = kept.embedding
        else:
            with torch.no_grad():
                embeddings = torch.cat([self._forward(p, first_pass=True)[0] for p, _, _ in group])
        leaf = embeddings.detach().requires_grad_()
        terms, weight = self._losses(leaf, group, all_text_embeddings, sizes)
        weight = share if weight is None else weight
        (weight * terms["total"]).backward()
        assert leaf.grad is not None
        fusion = torch.zeros((), device=leaf.device)
        embedding_grads = leaf.grad.split([len(p) for p, _, _ in group])
        for place, ((pixels, _, texts), embedding_grad) in enumerate(
            zip(group, embedding_grads, strict=True)
        ):
            with self._synchronize(last and place == len(group) - 1):
                output = kept or self._forward(pixels)
                tensors, gradients = [output.embedding], [embedding_grad]
                if self.fusion_weight:
                    own = torch.arange(first, first + len(texts), device=texts.device)
                    value = fusion_loss(
                        self.student.fusion, output.dense, texts, all_text_embeddings, own
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
        """Averages the gradients of the losses' temperatures, which DDP does not wrap."""
        for parameter in self.loss.parameters():
            if parameter.grad is not None and get_world_size() > 1:
                parameter.grad = mean_over_ranks(parameter.grad)

    def _losses(
        self,
        leaf: Tensor,
        group: list[tuple[Tensor, Tensor, Tensor]],
        all_text_embeddings: Tensor,
        sizes: Sequence[int],
    ) -> tuple[dict[str, Tensor], float | None]:
        """The terms, and their weight where that is not this rank's share."""
        teacher = torch.cat([part[1] for part in group])
        if not self.coupled:
            return self.loss(leaf, teacher), None
        embeddings, targets = gather(leaf, sizes), gather(teacher, sizes)
        # where the matrix fits, each rank computes the loss of the whole batch, whose gradient is
        # rounded alike for any number of ranks; otherwise the loss of its local rows
        if len(embeddings) <= self.max_full_matrix:
            return self.loss(embeddings, targets, all_text_embeddings, ALL_ROWS), 1.0
        first = sum(sizes[: get_rank()])
        return self.loss(
            embeddings, targets, all_text_embeddings, slice(first, first + len(leaf))
        ), None

    def _forward(self, pixels: Tensor, first_pass: bool = False) -> StudentOutput:
        """One micro-batch; the first of two passes leaves the running statistics as they were."""
        self.statistics.restore()
        output = (self.unwrapped if first_pass else self.model)(pixels)
        if not first_pass:
            self.statistics.collect()
        return output

    @property
    def unwrapped(self) -> TrainingForward:
        """The model without DDP."""
        model: Any = self.model
        return getattr(model, "module", model)

    def _synchronize(self, now: bool) -> contextlib.AbstractContextManager:
        """Averages gradients over the ranks in the last backward pass of a step only."""
        if now or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()
