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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdeov.models.fusion import fusion_loss
from kdeov.models.student import VisualStudent
from kdeov.training.batch_norm import RunningStatistics
from kdeov.training.distributed import (
    gather,
    get_rank,
    get_world_size,
    mean_over_ranks,
    sum_over_ranks,
)
from kdeov.training.forward import (
    MicroBatch,
    RegionWeights,
    TrainingForward,
    TrainingOutput,
    has_area,
    split_batch,
)
from kdeov.training.losses import (
    ALL_ROWS,
    COUPLED,
    NEEDS_TEXT,
    FeatureAlignmentLoss,
    cosine_distances,
)


class Term(NamedTuple):
    """A loss term of single images; its value for the global batch is the mean over the ranks of
    value * numerator / denominator, summed over micro-batches.
    """

    value: Tensor
    weight: float
    numerator: float
    denominator: Tensor | int


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
        region_weights: Weights of the losses of regions and mosaics.

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
        region_weights: RegionWeights | None = None,
    ) -> None:
        student.fusion.requires_grad_(bool(fusion_weight))
        self.student, self.loss, self.fusion_weight = student, loss, fusion_weight
        self.region_weights = region_weights or RegionWeights()
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

    def backward(
        self,
        pixels: Tensor,
        teacher: Tensor,
        texts: Tensor,
        boxes: Tensor | None = None,
        targets: Tensor | None = None,
        seed: Sequence[int] = (),
    ) -> dict[str, Tensor]:
        """Adds the gradients of the global batch to the parameters, equal on all ranks.

        Args:
            pixels: [B, 3, H, W], normalised; this rank's share of the global batch.
            teacher: [B, D], the teacher's embeddings of these images.
            texts: [B, D], a unit text embedding per image; [B, 0] where no loss takes texts.
            boxes: [B, R, 4], regions in pixels; those without an area are left out.
            targets: [B, R, D], the teacher's embeddings of the regions.
            seed: Numbers that name the step, from which mosaics are drawn.

        Returns:
            The named terms and their `total`, detached. Their mean over the ranks is the value for
            the global batch.
        """
        self.statistics.reset()  # the previous step may have raised half-way
        rank, ranks = get_rank(), get_world_size()
        sizes = self.shares or [len(pixels)] * ranks
        size = self.micro_batch_size or len(pixels)
        regions = None
        if self.region_weights.regions and boxes is not None and targets is not None:
            regions = boxes, targets
        mosaics = seed if self.region_weights.mosaic else None
        inputs = (pixels, teacher, texts)
        micro = split_batch(inputs, regions, size, sum(sizes[:rank]), mosaics)
        self._num_regions = self._count_regions(boxes)
        all_text_embeddings = gather(texts, sizes) if self.needs_text else texts
        groups = [micro] if self.coupled else [[part] for part in micro]
        # weight by local batch size: DDP averages ranks equally
        share = len(pixels) * ranks / sum(sizes) / len(groups)
        sums: dict[str, Tensor] = {}
        for group in groups:
            terms = self._group(group, all_text_embeddings, sizes, share, last=group is groups[-1])
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        self.statistics.join()
        self._average_loss_gradients()
        return sums

    def _count_regions(self, boxes: Tensor | None) -> Tensor | int:
        """Regions of the global batch, at least 1; a tensor, for which the host does not wait."""
        if not self.region_weights.regions or boxes is None:
            return 1
        return sum_over_ranks(has_area(boxes).sum()).clamp(min=1)

    def _group(
        self,
        group: list[MicroBatch],
        all_text_embeddings: Tensor,
        sizes: Sequence[int],
        share: float,
        last: bool,
    ) -> dict[str, Tensor]:
        """Backward pass of micro-batches whose losses are computed together."""
        kept = None
        # a single micro-batch needs one forward pass; all ranks must decide alike, as the passes
        # exchange tensors
        if not self.coupled or max(sizes) == len(group[0].pixels):
            with self._synchronize(last):
                kept = self._forward(group[0])
            embeddings = kept.embedding
        else:
            with torch.no_grad():
                embeddings = torch.cat([self._forward(m, first_pass=True)[0] for m in group])
        leaf = embeddings.detach().requires_grad_()
        terms, weight = self._losses(leaf, group, all_text_embeddings, sizes)
        weight = share if weight is None else weight
        (weight * terms["total"]).backward()
        assert leaf.grad is not None
        found = {name: weight * value.detach() for name, value in terms.items()}
        sums: dict[str, tuple[Tensor, float]] = {}
        embedding_grads = leaf.grad.split([len(m.pixels) for m in group])
        for micro, embedding_grad in zip(group, embedding_grads, strict=True):
            with self._synchronize(last and micro is group[-1]):
                output = kept or self._forward(micro)
                tensors, gradients = [output.embedding], [embedding_grad]
                single = self._single(output, micro, all_text_embeddings, share, len(group))
                for name, term in single.items():
                    value, up, down = term.value, term.numerator, term.denominator
                    tensors.append(value * (term.weight * up / down))
                    gradients.append(torch.ones_like(value))
                    before = sums[name][0] if name in sums else torch.zeros_like(value.detach())
                    sums[name] = (before + value.detach() * up / down, term.weight)
                torch.autograd.backward(tensors, gradients)
        for name, (value, term_weight) in sums.items():
            found[name] = value
            found["total"] = found["total"] + term_weight * value
        return found

    def _single(
        self,
        output: TrainingOutput,
        micro: MicroBatch,
        all_text_embeddings: Tensor,
        share: float,
        parts: int,
    ) -> dict[str, Term]:
        """The terms that compare no image with others, or with texts alone."""
        terms = {}
        if output.dense is not None:
            texts = micro.texts
            own = torch.arange(micro.first, micro.first + len(texts), device=texts.device)
            value = fusion_loss(self.student.fusion, output.dense, texts, all_text_embeddings, own)
            terms["fusion"] = Term(value, self.fusion_weight, share, parts)
        if output.regions is not None and micro.boxes is not None and micro.targets is not None:
            distances = cosine_distances(output.regions, micro.targets)
            value = torch.where(has_area(micro.boxes), distances, 0).sum()
            terms["regions"] = Term(
                value, self.region_weights.regions, get_world_size(), self._num_regions
            )
        if output.tiles is not None and micro.mosaic is not None:
            value = cosine_distances(output.tiles, micro.teacher[micro.mosaic.rows]).mean()
            terms["mosaic"] = Term(value, self.region_weights.mosaic, share, parts)
        return terms

    def _average_loss_gradients(self) -> None:
        """Averages the gradients of the losses' temperatures, which DDP does not wrap."""
        for parameter in self.loss.parameters():
            if parameter.grad is not None and get_world_size() > 1:
                parameter.grad = mean_over_ranks(parameter.grad)

    def _losses(
        self,
        leaf: Tensor,
        group: list[MicroBatch],
        all_text_embeddings: Tensor,
        sizes: Sequence[int],
    ) -> tuple[dict[str, Tensor], float | None]:
        """The terms, and their weight where that is not this rank's share."""
        teacher = torch.cat([micro.teacher for micro in group])
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

    def _forward(self, micro: MicroBatch, first_pass: bool = False) -> TrainingOutput:
        """One micro-batch; the first of two passes leaves the running statistics as they were."""
        self.statistics.restore()
        model = self.unwrapped if first_pass else self.model
        output = model(micro.pixels, micro.boxes, micro.mosaic)
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
