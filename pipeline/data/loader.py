"""Batches for training and evaluation: each rank's share in the order of the epoch plan, whatever
the number of loader workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kdeov.data.transform import ImageTransform
from kdeov.data.views import view_of_epoch
from kdeov.errors import KdeovError
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.data.batch import Batch, caption_of_epoch, collate, with_colors
from pipeline.data.epoch_plan import EpochPlan, rank_slice
from pipeline.data.paired_shards import PairedShards


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
        colors_on_device: Whether the model's device changes colors (see `Batch.views`), to spare
            the loader's cores.
    """

    def __init__(
        self,
        shards: PairedShards,
        plan: EpochPlan,
        transform: ImageTransform,
        rank: int = 0,
        world: int = 1,
        from_step: int = 0,
        colors_on_device: bool = False,
    ) -> None:
        self.shards, self.plan, self.transform = shards, plan, transform
        self.streams = plan.streams_of(rank, world)
        self.from_step, self.colors_on_device = from_step, colors_on_device

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
        batch = collate(samples, views, captions, self.transform)
        return batch if self.colors_on_device else with_colors(batch)


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
            yield with_colors(collate(batch, plain, plain, self.transform))

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
                joined = batch[0].join(batch, self.pinned)
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


def loader_worker() -> tuple[int, int]:
    """(Number of this loader worker, number of loader workers)."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
