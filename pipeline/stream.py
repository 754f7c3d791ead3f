"""What training reads: each rank's batches of an epoch, in the order of the data plan."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kdeov.errors import KdeovError
from kdeov.transform import ImageTransform
from kdeov.views import render, view_of_epoch
from pipeline.cache import CachedSample, PairedShards
from pipeline.plan import EpochPlan, plan_epoch, rank_slice


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        keys: B keys.
        pixels: uint8 [B, 3, S, S], the student's rendering of the views that the teacher saw.
        teacher: float32 [B, D], the teacher's vectors of those views.
        texts: float32 [B, D], the teacher's vectors of one caption each.
    """

    keys: list[str]
    pixels: Tensor
    teacher: Tensor
    texts: Tensor


class EpochStream(IterableDataset):
    """Batches of a training epoch for one rank, whatever the number of loader workers.

    Loader worker w of n makes the steps w, w + n, ...; the loader takes turns, so the order of the
    plan is kept. A worker reads one window of shards at a time and keeps only the samples of its
    own steps.

    Args:
        shards: Pictures with their teacher vectors.
        plan: Of this epoch.
        epoch: Counts from 0; picks views and captions.
        transform: The student's.
        rank: Of this process.
        world: Number of ranks.
    """

    def __init__(
        self,
        shards: PairedShards,
        plan: EpochPlan,
        epoch: int,
        transform: ImageTransform,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.plan, self.epoch, self.transform = shards, plan, epoch, transform
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        steps = range(first, self.plan.steps, stride)
        mine = np.zeros(len(self.plan.order), dtype=bool)
        for step in steps:
            mine[self.plan.positions(step, self.rank, self.world)] = True
        held: dict[int, CachedSample] = {}  # by position in the order
        pending = iter(steps)
        upcoming = next(pending, None)
        start = 0
        for end in self.plan.windows:
            held |= self._read(np.flatnonzero(mine[start:end]) + start)
            while upcoming is not None and self._positions(upcoming).stop <= end:
                positions = self._positions(upcoming)
                yield self._collate([held.pop(p) for p in range(positions.start, positions.stop)])
                upcoming = next(pending, None)
            start = end

    def _positions(self, step: int) -> slice:
        return self.plan.positions(step, self.rank, self.world)

    def _read(self, positions: np.ndarray) -> dict[int, CachedSample]:
        """The samples at these positions, read shard by shard."""
        position_of: dict[int, list[int]] = {}
        for position in positions:
            position_of.setdefault(int(self.plan.order[position]), []).append(int(position))
        needed = np.unique(
            np.searchsorted(self.shards.offsets, self.plan.order[positions], "right") - 1
        )
        return {
            position: sample
            for shard in needed
            for number, sample in self.shards.read(int(shard), position_of.__contains__)
            for position in position_of[number]
        }

    def _collate(self, samples: list[CachedSample]) -> Batch:
        pixels, teacher, texts = [], [], []
        for sample in samples:
            view = view_of_epoch(sample.key, self.epoch, len(sample.views))
            pixels.append(_render(sample, view, self.transform))
            teacher.append(sample.view_vectors[view])
            texts.append(
                sample.text_vectors[caption_of_epoch(sample.key, self.epoch, len(sample.captions))]
            )
        return Batch(
            [sample.key for sample in samples],
            torch.stack(pixels),
            torch.from_numpy(np.stack(teacher)).float(),
            torch.from_numpy(np.stack(texts)).float(),
        )


class EvaluationStream(IterableDataset):
    """A rank's share of a split under the plain view, in order, nothing dropped and nothing twice.

    Args:
        shards: Pictures with their teacher vectors.
        transform: The student's.
        batch_size: Pictures a batch; the last one may be smaller.
        rank: Of this process.
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
        samples: list[CachedSample] = []
        for sample in self._samples():
            samples.append(sample)
            if len(samples) == self.batch_size:
                yield self._collate(samples)
                samples = []
        if samples:
            yield self._collate(samples)

    def _samples(self) -> Iterator[CachedSample]:
        for shard in range(len(self.shards.manifest.shards)):
            low, high = self.shards.offsets[shard : shard + 2]
            if high > self.mine.start and low < self.mine.stop:
                yield from (sample for _, sample in self.shards.read(shard, self.mine.__contains__))

    def _collate(self, samples: list[CachedSample]) -> Batch:
        return Batch(
            [sample.key for sample in samples],
            torch.stack([_render(sample, 0, self.transform) for sample in samples]),
            torch.from_numpy(np.stack([sample.view_vectors[0] for sample in samples])).float(),
            torch.from_numpy(np.stack([sample.text_vectors[0] for sample in samples])).float(),
        )


def epoch_loader(
    shards: PairedShards,
    transform: ImageTransform,
    *,
    seed: int,
    epoch: int,
    global_batch: int,
    window: int,
    rank: int,
    world: int,
    workers: int,
) -> tuple[EpochPlan, DataLoader[Any]]:
    """The plan of an epoch and a loader of this rank's batches."""
    plan = plan_epoch(shards.manifest.sizes, seed, epoch, global_batch, window)
    stream = EpochStream(shards, plan, epoch, transform, rank, world)
    return plan, loader(stream, workers)


class BatchLoader(DataLoader[Any]):
    """A loader that tells a person's mistake in one line, not with a loader process's trace."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except KdeovError as error:
            line = str(error).strip().splitlines()[-1]
            raise KdeovError(line.removeprefix("kdeov.errors.KdeovError: ")) from error


def loader(stream: IterableDataset, workers: int) -> DataLoader[Any]:
    """A loader of ready-made batches."""
    pinned = torch.cuda.is_available()
    return BatchLoader(stream, batch_size=None, num_workers=workers, pin_memory=pinned)


def caption_of_epoch(key: str, epoch: int, count: int) -> int:
    """The caption that an epoch uses: all in turn, out of step with the views."""
    return (
        epoch + int.from_bytes(hashlib.sha256(f"caption/{key}".encode()).digest()[:4], "little")
    ) % count


def _render(sample: CachedSample, view: int, transform: ImageTransform) -> Tensor:
    image = Image.open(io.BytesIO(sample.jpeg)).convert("RGB")
    shown = render(image, sample.views[view], transform.size, transform.resampling)
    return torch.from_numpy(shown.copy()).permute(2, 0, 1)
