"""The forward pass of training: one pass of the backbone for the images of a micro-batch, their
regions and mosaics of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdeov.models.student import VisualStudent
from kdeov.training.mosaics import Mosaic, make_mosaics


class MicroBatch(NamedTuple):
    """A part of the global batch that is passed together.

    Attributes:
        pixels: [B, 3, H, W], normalised.
        teacher: [B, D].
        texts: [B, D], or [B, 0].
        first: Number of its first image in the global batch.
        boxes: [B, R, 4], or None.
        targets: [B, R, D], the teacher's embeddings of the boxes, or None.
        mosaic: Mosaics of its images, or None.
    """

    pixels: Tensor
    teacher: Tensor
    texts: Tensor
    first: int
    boxes: Tensor | None
    targets: Tensor | None
    mosaic: Mosaic | None


class RegionWeights(NamedTuple):
    """Weights of the loss terms of regions.

    Attributes:
        regions: Of regions, against their cached embeddings.
        mosaic: Of the tiles of mosaics, against the cached embeddings of the images they show.
    """

    regions: float = 0.0
    mosaic: float = 0.0


def split_batch(
    inputs: tuple[Tensor, Tensor, Tensor],
    regions: tuple[Tensor, Tensor] | None,
    size: int,
    first: int,
    mosaics: Sequence[int] | None,
) -> list[MicroBatch]:
    """The micro-batches of a rank's share of a step.

    Args:
        inputs: Pixels [B, 3, H, W], teacher embeddings [B, D] and texts [B, D] or [B, 0].
        regions: Boxes [B, R, 4] and their embeddings [B, R, D], where their loss is computed.
        size: Images of a micro-batch.
        first: Number of the first image in the global batch.
        mosaics: Numbers from which mosaics are drawn, with the place of each micro-batch; None
            makes none.
    """
    parts = []
    for start in range(0, len(inputs[0]), size):
        rows, place = slice(start, start + size), first + start
        pixels, teacher, texts = (tensor[rows] for tensor in inputs)
        boxes, targets = (None, None) if regions is None else (x[rows] for x in regions)
        mosaic = None if mosaics is None else make_mosaics(pixels, (*mosaics, place))
        parts.append(MicroBatch(pixels, teacher, texts, place, boxes, targets, mosaic))
    return parts


def has_area(boxes: Tensor) -> Tensor:
    """Which boxes [..., 4] have an area: those of regions that the view shows whole."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


class TrainingOutput(NamedTuple):
    """The outputs of a micro-batch, at least of single precision; None where not computed.

    Attributes:
        embedding: [B, D], not normalised.
        dense: [B, D, h, w].
        regions: [B, R, D], of the boxes in the images.
        tiles: [M, T, D], of the tiles of the mosaics.
    """

    embedding: Tensor
    dense: Tensor | None = None
    regions: Tensor | None = None
    tiles: Tensor | None = None


class TrainingForward(nn.Module):
    """The forward pass of training, as a module for DDP to wrap.

    Args:
        student: The student.
        dense: Whether the dense map is computed too, which the fusion loss takes.
    """

    def __init__(self, student: VisualStudent, dense: bool) -> None:
        super().__init__()
        self.student, self.dense = student, dense

    def forward(
        self, pixels: Tensor, boxes: Tensor | None = None, mosaic: Mosaic | None = None
    ) -> TrainingOutput:
        """One pass, in which batch norm sees images and mosaics together.

        Args:
            pixels: [B, 3, H, W], normalised.
            boxes: [B, R, 4] in pixels, where regions are wanted.
            mosaic: Mosaics of the same size, where their tiles are wanted.
        """
        kind = pixels.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            if boxes is not None or mosaic is not None:
                return _at_least_float32(self._with_regions(pixels, boxes, mosaic))
            if self.dense:
                return _at_least_float32(TrainingOutput(*self.student.with_dense(pixels)))
            return _at_least_float32(TrainingOutput(self.student(pixels)))

    def _with_regions(
        self, pixels: Tensor, boxes: Tensor | None, mosaic: Mosaic | None
    ) -> TrainingOutput:
        student, count = self.student, len(pixels)
        images = pixels if mosaic is None else torch.cat([pixels, mosaic.pixels])
        projection, strides = student.projection, student.backbone.strides
        hidden = projection.hidden(student.backbone(images))
        own, regions, tiles = hidden, None, None
        if mosaic is not None:
            # not slices, whose gradients have another memory format than the maps
            parts = [x.split([count, len(mosaic.pixels)]) for x in hidden]
            own = [part for part, _ in parts]
            places = student.boxes_of_padded(mosaic.boxes, pixels)
            tiles = projection.regions_of([part for _, part in parts], places, strides)
        if boxes is not None:
            regions = projection.regions_of(own, student.boxes_of_padded(boxes, pixels), strides)
        dense = projection.coarse_map_of(own) if self.dense else None
        return TrainingOutput(projection.embedding_of(own), dense, regions, tiles)


def _at_least_float32(output: TrainingOutput) -> TrainingOutput:
    """Half precision, which autocast gives, to single; double stays."""
    embedding, *others = (
        None if x is None else x.to(torch.promote_types(x.dtype, torch.float32)) for x in output
    )
    assert embedding is not None
    return TrainingOutput(embedding, *others)
