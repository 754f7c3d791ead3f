"""Batches for training and evaluation: each rank's share in the order of the epoch plan, whatever
the number of loader workers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kdeov.data.region_views import boxes_in_view
from kdeov.data.transform import ImageTransform
from kdeov.data.views import center_view, render, view_of_epoch
from kdeov.errors import DataError, KdeovError
from pipeline.artifacts.teacher_shards import PairedSample, first_not_unit
from pipeline.data.epoch_plan import EpochPlan, rank_slice
from pipeline.data.paired_shards import PairedShards

NO_REGIONS = torch.empty(0)


class Batch(NamedTuple):
    """One rank's share of a step.

    Attributes:
        keys: B keys.
        pixels: uint8 [B, 3, S, S], the views that the teacher embedded, rendered at the student's
            size.
        teacher: float32 [B, D], the teacher's embeddings of those views; [B, 0] where it has none.
        texts: float32 [B, D], the teacher's embeddings of one caption each; [B, 0] where there are
            none.
        boxes: float32 [B, R, 4], where the regions of the cache lie in `pixels`; zeros for those
            that the view cuts.
        regions: float32 [B, R, D], the teacher's embeddings of the regions.
    """

    keys: list[str]
    pixels: Tensor
    teacher: Tensor
    texts: Tensor
    boxes: Tensor = NO_REGIONS
    regions: Tensor = NO_REGIONS

    @classmethod
    def join(cls, parts: list[Batch]) -> Batch:
        """Concatenates the parts of one batch that loader workers read."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            [key for part in parts for key in part.keys],
            *(torch.cat(tensors) for tensors in zip(*(part[1:] for part in parts), strict=True)),
        )

    def pin(self) -> Batch:
        """The batch in pinned memory."""
        return Batch(self.keys, *(tensor.pin_memory() for tensor in self[1:]))


class EpochStream(IterableDataset):
    """A rank's batches of a training epoch.

    Each loader worker reads its part of every batch, from streams that no other worker reads. One
    block of each stream is in memory (see `EpochPlan`).

    Args:
        shards: Images with their teacher embeddings.
        plan: The plan of this epoch.
        transform: The student's.
        rank: The rank of this process.
        world: Number of ranks.
        from_step: First step.
    """

    def __init__(
        self,
        shards: PairedShards,
        plan: EpochPlan,
        transform: ImageTransform,
        rank: int = 0,
        world: int = 1,
        from_step: int = 0,
    ) -> None:
        self.shards, self.plan, self.transform = shards, plan, transform
        self.streams = plan.streams_of(rank, world)
        self.from_step = from_step

    def __iter__(self) -> Iterator[Batch]:
        part, parts = loader_worker()
        mine = [self.streams[place] for place in rank_slice(len(self.streams), part, parts)]
        for steps in zip(*map(self._stream, mine), strict=True):
            yield self._collate(list(chain.from_iterable(steps)))

    def _stream(self, stream: int) -> Iterator[list[PairedSample]]:
        """Samples of a stream, a step at a time."""
        size = self.plan.stream_batch
        blocks = self.plan.blocks(stream, self.from_step)
        block = next(blocks, None)
        samples = self._read(stream, block.first if block else self.plan.steps)
        while block is not None:
            held: list[PairedSample | None] = [*islice(samples, len(block.order))]
            for step in range(max(0, self.from_step - block.first), block.steps):
                places = block.order[step * size : (step + 1) * size]
                yield [held[place] for place in places]  # type: ignore[misc]
                for place in places:
                    held[place] = None  # free the memory of samples that were used
            block = next(blocks, None)

    def _read(self, stream: int, from_step: int) -> Iterator[PairedSample]:
        for segment in self.plan.ranges(stream, from_step):
            for _, sample in self.shards.read(segment.shard, None, segment.stop, segment.start):
                yield sample

    def _collate(self, samples: list[PairedSample]) -> Batch:
        epoch = self.plan.epoch
        views = [view_of_epoch(s.key, epoch, len(s.views)) for s in samples]
        captions = [caption_of_epoch(s.key, epoch, len(s.captions)) for s in samples]
        return _collate(samples, views, captions, self.transform)


class EvaluationStream(IterableDataset):
    """A rank's share of a split under the plain view: every image once, in order.

    Loader worker w of n reads batches w, w + n, ...; the loader polls them in turn, which keeps the
    order.

    Args:
        shards: Images with their teacher embeddings.
        transform: The student's.
        batch_size: Images a batch; the last one may be smaller.
        rank: The rank of this process.
        world: Number of ranks.
    """

    def __init__(
        self,
        shards: PairedShards,
        transform: ImageTransform,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.transform, self.batch_size = shards, transform, batch_size
        self.mine = rank_slice(len(shards), rank, world)

    def __iter__(self) -> Iterator[Batch]:
        samples = self._samples(*loader_worker())
        while batch := list(islice(samples, self.batch_size)):
            plain = [0] * len(batch)
            yield _collate(batch, plain, plain, self.transform)

    def _samples(self, part: int, parts: int) -> Iterator[PairedSample]:
        for shard in range(len(self.shards.manifest.shards)):
            low, high = map(int, self.shards.offsets[shard : shard + 2])
            if high > self.mine.start and low < self.mine.stop:

                def wanted(number: int, low: int = low) -> bool:
                    place = low + number - self.mine.start
                    inside = 0 <= place < len(self.mine)
                    return inside and place // self.batch_size % parts == part

                first, last = max(0, self.mine.start - low), min(high, self.mine.stop) - low
                yield from (s for _, s in self.shards.read(shard, wanted, last, first))


class BatchLoader(DataLoader[Any]):
    """Joins the parts of a batch that loader workers read.

    A `KdeovError` of a loader process is raised again with its own line, without the trace of the
    process.

    Args:
        stream: Batches, or parts of them.
        workers: Loader processes; 0 reads in this one.
        joined: Number of successive parts that make up a batch.
        pinned: Whether batches are copied to pinned memory.
    """

    def __init__(
        self, stream: IterableDataset, workers: int, joined: int = 1, pinned: bool = False
    ) -> None:
        # the plan sets the order; the seed that DataLoader draws must not advance the run's RNG
        own = torch.Generator().manual_seed(0)
        super().__init__(stream, batch_size=None, num_workers=workers, generator=own)
        self.joined, self.pinned = joined, pinned

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            parts = super().__iter__()
            while batch := list(islice(parts, self.joined)):
                joined = batch[0].join(batch)
                yield joined.pin() if self.pinned else joined
        except KdeovError as error:
            line = str(error).strip().splitlines()[-1]
            raise KdeovError(line.removeprefix("kdeov.errors.KdeovError: ")) from error


class PlannedStream(Protocol):
    """A rank's batches of an epoch, read from some streams of the plan."""

    streams: range

    def __iter__(self) -> Iterator[Any]: ...


def epoch_loader(stream: PlannedStream, workers: int, pinned: bool = False) -> BatchLoader:
    """A loader of a rank's batches, with at most one worker a stream."""
    workers = min(workers, len(stream.streams))
    return BatchLoader(stream, workers, joined=max(1, workers), pinned=pinned)  # type: ignore[arg-type]


def caption_of_epoch(key: str, epoch: int, count: int) -> int:
    """Number of the caption of an image in an epoch: (epoch + hash(key)) mod count.

    The hash differs from that of `view_of_epoch`, so that captions and views are paired anew.
    """
    turn = int.from_bytes(hashlib.sha256(f"caption/{key}".encode()).digest()[:4], "little")
    return (epoch + turn) % max(1, count)


def _collate(
    samples: list[PairedSample], views: list[int], captions: list[int], transform: ImageTransform
) -> Batch:
    keys = [sample.key for sample in samples]
    pixels = [render_view(s, view, transform) for s, view in zip(samples, views, strict=True)]
    return Batch(
        keys,
        torch.stack(pixels),
        _unit_embeddings([s.view_embeddings for s in samples], keys, "view", views),
        _unit_embeddings([s.text_embeddings for s in samples], keys, "caption", captions),
        *_regions(samples, views, transform.size),
    )


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


def render_view(sample: PairedSample, view: int, transform: ImageTransform) -> Tensor:
    """A view of a sample as the student sees it, uint8 [3, S, S]; 0 is the plain one."""
    image = Image.open(io.BytesIO(sample.jpeg)).convert("RGB")
    chosen = sample.views[view] if sample.views else center_view(image.size)
    pixels = render(image, chosen, transform.size, transform.resampling)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def loader_worker() -> tuple[int, int]:
    """(Number of this loader worker, number of loader workers)."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
