"""Batches of images with boxes: for training in the order of the epoch plan, and for validation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kdeov.detection.augment import TILES, BoxAugmentation, BoxedPixels, rng_of
from kdeov.detection.letterbox import Letterbox
from kdeov.detection.losses import BoxTargets
from kdeov.weights.device import join_tensors
from pipeline.boxes.samples import BoxSample, BoxShards
from pipeline.data.epoch_plan import EpochPlan, rank_slice
from pipeline.data.loader import loader_worker


class BoxBatch(NamedTuple):
    """One rank's share of a step.

    Attributes:
        keys: B keys; of a mosaic, that of its first image.
        pixels: uint8 [B, 3, S, S].
        targets: Their boxes, padded.
    """

    keys: list[str]
    pixels: Tensor
    targets: BoxTargets

    @classmethod
    def collate(cls, keys: list[str], items: list[BoxedPixels]) -> BoxBatch:
        """Pads the boxes of images to the same number."""
        most = max((len(item.boxes) for item in items), default=0)
        boxes = torch.zeros(len(items), most, 4)
        present = torch.zeros(len(items), most, dtype=torch.bool)
        crowd = torch.zeros(len(items), most, dtype=torch.bool)
        for number, item in enumerate(items):
            count = len(item.boxes)
            boxes[number, :count] = torch.from_numpy(item.boxes)
            present[number, :count] = True
            crowd[number, :count] = torch.from_numpy(item.crowd)
        pixels = torch.from_numpy(np.stack([item.pixels for item in items]))
        return cls(keys, pixels, BoxTargets(boxes, present, crowd))

    @classmethod
    def join(cls, parts: list[BoxBatch], pinned: bool = False) -> BoxBatch:
        """Concatenates the parts of one batch that loader workers read (see `Batch.join`)."""
        if len(parts) == 1:
            return parts[0]
        most = max(part.targets.boxes.shape[1] for part in parts)
        targets = BoxTargets(
            *(torch.cat([_padded(p.targets[k], most) for p in parts]) for k in range(3))
        )
        keys = [key for part in parts for key in part.keys]
        return cls(keys, join_tensors([part.pixels for part in parts], pinned), targets)

    def pin(self) -> BoxBatch:
        """The batch in pinned memory."""
        targets = BoxTargets(*(tensor.pin_memory() for tensor in self.targets))
        return BoxBatch(self.keys, self.pixels.pin_memory(), targets)

    def split(self, size: int) -> Iterator[tuple[Tensor, BoxTargets]]:
        """Pixels and targets of each micro-batch."""
        parts = [tensor.split(size) for tensor in (self.pixels, *self.targets)]
        for pixels, boxes, present, crowd in zip(*parts, strict=True):
            yield pixels, BoxTargets(boxes, present, crowd)

    def to(self, device: str) -> BoxBatch:
        """The batch on a device."""
        targets = BoxTargets(*(tensor.to(device, non_blocking=True) for tensor in self.targets))
        return BoxBatch(self.keys, self.pixels.to(device, non_blocking=True), targets)


class BoxStream(IterableDataset):
    """A rank's batches of a training epoch (see `pipeline.data.loader.EpochStream`).

    The other images of a mosaic are of the same shuffle block, which is in memory as a whole. So
    inputs follow from (seed, epoch, key), for any number of ranks and of loader workers.

    Args:
        shards: Images with boxes.
        plan: The plan of this epoch.
        augmentation: From images to inputs.
        rank: The rank of this process.
        world: Number of ranks.
        from_step: First step.
    """

    def __init__(
        self,
        shards: BoxShards,
        plan: EpochPlan,
        augmentation: BoxAugmentation,
        rank: int = 0,
        world: int = 1,
        from_step: int = 0,
    ) -> None:
        self.shards, self.plan, self.augmentation = shards, plan, augmentation
        self.streams = plan.streams_of(rank, world)
        self.from_step = from_step

    def __iter__(self) -> Iterator[BoxBatch]:
        part, parts = loader_worker()
        mine = [self.streams[place] for place in rank_slice(len(self.streams), part, parts)]
        for steps in zip(*map(self._stream, mine), strict=True):
            keys, items = zip(*chain.from_iterable(steps), strict=True)
            yield BoxBatch.collate(list(keys), list(items))

    def _stream(self, stream: int) -> Iterator[list[tuple[str, BoxedPixels]]]:
        """Keys and inputs of a stream, a step at a time."""
        size = self.plan.stream_batch
        blocks = self.plan.blocks(stream, self.from_step)
        block = next(blocks, None)
        samples = self._read(stream, block.first if block else self.plan.steps)
        while block is not None:
            held = [*islice(samples, len(block.order))]
            for step in range(max(0, self.from_step - block.first), block.steps):
                places = block.order[step * size : (step + 1) * size]
                yield [(held[place].key, self._input(held, place)) for place in places]
            block = next(blocks, None)

    def _read(self, stream: int, from_step: int) -> Iterator[BoxSample]:
        for segment in self.plan.ranges(stream, from_step):
            for _, sample in self.shards.read(segment.shard, None, segment.stop, segment.start):
                yield sample

    def _input(self, held: list[BoxSample], place: int) -> BoxedPixels:
        rng = rng_of(self.plan.seed, self.plan.epoch, held[place].key)
        if not self.augmentation.draws_mosaic(rng):
            return self.augmentation.single(held[place].boxed_image(), rng)
        others = rng.integers(len(held), size=TILES - 1)
        items = [held[place], *(held[other] for other in others)]
        order = rng.permutation(TILES)
        return self.augmentation.tiled([items[k].boxed_image() for k in order], rng)


class BoxEvaluationStream(IterableDataset):
    """A rank's share of a split: every image once, in order, letterboxed and one at a time.

    Args:
        shards: Images with boxes.
        side: Of the input, pixels.
        rank: The rank of this process.
        world: Number of ranks.
    """

    def __init__(self, shards: BoxShards, side: int, rank: int = 0, world: int = 1) -> None:
        self.shards, self.side = shards, side
        self.mine = rank_slice(len(shards), rank, world)

    def __iter__(self) -> Iterator[tuple[BoxSample, Letterbox, Tensor]]:
        """Each image with its letterbox and the uint8 pixels [3, S, S] inside it."""
        low = 0
        for shard, size in enumerate(self.shards.manifest.sizes):
            if low + size > self.mine.start and low < self.mine.stop:
                first, last = max(0, self.mine.start - low), min(size, self.mine.stop - low)
                for _, sample in self.shards.read(shard, None, last, first):
                    image = sample.boxed_image().image
                    fit = Letterbox.fit(image.size, self.side)
                    yield sample, fit, torch.from_numpy(fit.pixels(image))
            low += size


def _padded(values: Tensor, most: int) -> Tensor:
    """Targets [B, M, ...] with rows of zeros up to `most`."""
    missing = most - values.shape[1]
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
