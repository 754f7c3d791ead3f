"""A batch: views of images with the teacher's embeddings of exactly these views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdeov.data.colors import adjust_colors_
from kdeov.data.region_views import boxes_in_view
from kdeov.data.rendering import StoredImage, crop
from kdeov.data.transform import ImageTransform
from kdeov.data.views import View, center_view
from kdeov.errors import DataError
from kdeov.weights.device import join_tensors
from pipeline.artifacts.teacher_shards import PairedSample, first_not_unit

NO_REGIONS = torch.empty(0)


class Batch(NamedTuple):
    """One rank's share of a step.

    Attributes:
        keys: B keys.
        pixels: uint8 [B, 3, S, S], the views that the teacher embedded, at the student's size.
        teacher: float32 [B, D], the teacher's embeddings of those views; [B, 0] where it has none.
        texts: float32 [B, D], the teacher's embeddings of one caption each; [B, 0] where there are
            none.
        boxes: float32 [B, R, 4], where the regions of the cache lie in `pixels`; zeros for those
            that the view cuts.
        regions: float32 [B, R, D], the teacher's embeddings of the regions.
        views: B views where `adjust_colors_(pixels, views)` is left to the device of the model;
            none where `pixels` have their colors.
    """

    keys: list[str]
    pixels: Tensor
    teacher: Tensor
    texts: Tensor
    boxes: Tensor = NO_REGIONS
    regions: Tensor = NO_REGIONS
    views: Sequence[View] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Pixels, teacher, texts, boxes and regions."""
        return self.pixels, self.teacher, self.texts, self.boxes, self.regions

    @classmethod
    def join(cls, parts: list[Batch], pinned: bool = False) -> Batch:
        """Concatenates the parts of one batch that loader workers read.

        Args:
            parts: In order.
            pinned: Whether to pinned memory, which copies once; a single part stays where it is.
        """
        if len(parts) == 1:
            return parts[0]
        pixels, teacher, texts, boxes, regions = (
            join_tensors(tensors, pinned)
            for tensors in zip(*(part.tensors for part in parts), strict=True)
        )
        keys = [key for part in parts for key in part.keys]
        views = [view for part in parts for view in part.views]
        return cls(keys, pixels, teacher, texts, boxes, regions, views)

    def pin(self) -> Batch:
        """The batch in pinned memory."""
        pixels, teacher, texts, boxes, regions = (tensor.pin_memory() for tensor in self.tensors)
        return Batch(self.keys, pixels, teacher, texts, boxes, regions, self.views)


def caption_of_epoch(key: str, epoch: int, count: int) -> int:
    """Number of the caption of an image in an epoch: (epoch + hash(key)) mod count.

    The hash differs from that of `view_of_epoch`, so that captions and views are paired anew.
    """
    turn = int.from_bytes(hashlib.sha256(f"caption/{key}".encode()).digest()[:4], "little")
    return (epoch + turn) % max(1, count)


def collate(
    samples: list[PairedSample], views: list[int], captions: list[int], transform: ImageTransform
) -> Batch:
    """A batch of which colors are still to change."""
    keys = [sample.key for sample in samples]
    crops = [crop_view(s, view, transform) for s, view in zip(samples, views, strict=True)]
    pixels = [pixels for pixels, _ in crops]
    return Batch(
        keys,
        torch.stack(pixels),
        _unit_embeddings([s.view_embeddings for s in samples], keys, "view", views),
        _unit_embeddings([s.text_embeddings for s in samples], keys, "caption", captions),
        *_regions(samples, views, transform.size),
        [view for _, view in crops],
    )


def with_colors(batch: Batch) -> Batch:
    """The batch with the colors of its views, in the same memory."""
    return batch._replace(pixels=adjust_colors_(batch.pixels, batch.views), views=())


def _regions(samples: list[PairedSample], views: list[int], side: int) -> tuple[Tensor, Tensor]:
    """The boxes [B, R, 4] of regions in the shown views, and their embeddings [B, R, D]."""
    if not any(sample.regions for sample in samples):
        return NO_REGIONS, NO_REGIONS
    pairs = zip(samples, views, strict=True)
    boxes = [boxes_in_view(sample.regions, sample.views[view], side) for sample, view in pairs]
    embeddings = np.stack([s.region_embeddings for s in samples]).astype(np.float32)
    for sample, rows in zip(samples, embeddings, strict=True):
        if wrong := first_not_unit(rows):
            raise DataError(
                f"the teacher's embedding of {sample.key}, region {wrong[0]}, has length "
                f"{wrong[1]:.3g}, not 1; run `dvc repro -f embed`"
            )
    return torch.from_numpy(np.stack(boxes)), torch.from_numpy(embeddings)


def _unit_embeddings(
    blocks: list[np.ndarray], keys: list[str], kind: str, numbers: list[int]
) -> Tensor:
    """One half-precision row of each block as float32 [B, D]; [B, 0] where all blocks are empty.

    Raises:
        DataError: A row is not of unit length (zero or NaN, say), or only some blocks are empty.
    """
    empty = [len(block) == 0 for block in blocks]
    if all(empty):
        return torch.empty(len(blocks), 0)
    if any(empty):
        raise DataError(
            f"{keys[empty.index(True)]} has no {kind}, but other images have one; give all images "
            f"a {kind}, or none"
        )
    rows = [block[number] for block, number in zip(blocks, numbers, strict=True)]
    embeddings = np.stack(rows).astype(np.float32)
    if wrong := first_not_unit(embeddings):
        place, length = wrong
        raise DataError(
            f"the teacher's embedding of {keys[place]}, {kind} {numbers[place]}, has length "
            f"{length:.3g}, not 1; run `dvc repro -f embed`"
        )
    return torch.from_numpy(embeddings)


def crop_view(sample: PairedSample, view: int, transform: ImageTransform) -> tuple[Tensor, View]:
    """A view of a sample at the student's size before its colors change, uint8 [3, S, S], and the
    view; 0 is the plain one.

    Raises:
        DataError: The image is damaged; names the sample.
    """
    try:
        image = StoredImage(sample.jpeg)
        chosen = sample.views[view] if sample.views else center_view(image.size)
        return crop(image, chosen, transform.size, transform.interpolation), chosen
    except DataError as error:
        raise DataError(f"{sample.key}: {error}; run `dvc repro -f prepare`") from error
