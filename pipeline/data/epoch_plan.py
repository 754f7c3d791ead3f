"""The data plan: which sample goes to which rank at which step, known before step 0.

An epoch shuffles the shards and cuts their joined samples into `num_streams` of equal length, each a
sequential reader. Every step takes the next few samples of every lane, so a batch mixes as many
places of the data as there are num_streams. Within a lane, samples are shuffled in blocks: the samples
that are in memory at the same time. All of it is a pure function of (shard sizes, seed, epoch).
Ranks share the num_streams, in whole micro-batches: the order of samples is the same for any number of
ranks, all have equally many steps, and each reads its own part of the data alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdeov.errors import KdeovError


@dataclass(frozen=True)
class SampleRange:
    """Consecutive samples of one shard: numbers `start` to `stop` within it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShuffleBlock:
    """Consecutive steps of a lane whose samples are read, shuffled and held together.

    Attributes:
        first: Step that it begins with.
        steps: How many steps it lasts.
        order: [steps * lane_batch], the shuffled places of its samples in reading order.
    """

    first: int
    steps: int
    order: np.ndarray


@dataclass(frozen=True)
class EpochPlan:
    """The samples of one training epoch: each one once; where they do not fill the last step, the
    last num_streams go on with the first ones.

    Attributes:
        sizes: Samples of each shard.
        seed: Of the shuffling.
        epoch: Counts from 0; each one has its own order.
        global_batch_size: Samples a step, over all ranks.
        num_streams: Sequential readers, over all ranks; a divisor of `global_batch_size`.
        buffer: Samples that are held in memory and shuffled together, over all ranks.
        micro_batch_size: Samples of a step that stay together on a rank; a divisor of `global_batch_size`.

    Raises:
        KdeovError: There are no samples, or the num_streams cannot share a step evenly.
    """

    sizes: Sequence[int]
    seed: int
    epoch: int
    global_batch_size: int
    num_streams: int
    buffer: int
    micro_batch_size: int = 1

    def __post_init__(self) -> None:
        if not self.samples:
            raise KdeovError(
                "there is nothing to train on: the manifest lists no samples; run `dvc repro "
                "prepare`"
            )
        if self.global_batch_size % self.num_streams:
            raise KdeovError(
                f"distill.global_batch_size = {self.global_batch_size} cannot be shared by distill.num_streams = "
                f"{self.num_streams}; make it a multiple of the num_streams"
            )

    @cached_property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(self.sizes)

    @property
    def steps(self) -> int:
        """Steps of every rank."""
        return -(-self.samples // self.global_batch_size)

    @property
    def repeated(self) -> int:
        """How many samples are shown a second time to fill the last step."""
        return self.steps * self.global_batch_size - self.samples

    @property
    def lane_batch(self) -> int:
        """Samples that a lane gives to a step."""
        return self.global_batch_size // self.num_streams

    @cached_property
    def _shards(self) -> np.ndarray:
        """The shards in this epoch's order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sizes))

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each of them ends in the joined samples."""
        return np.cumsum(np.asarray(self.sizes)[self._shards])

    def segments(self, lane: int, from_step: int = 0) -> Iterator[SampleRange]:
        """What a lane reads, in order, from a step to the end of the epoch."""
        length = self.steps * self.lane_batch
        position = lane * length + from_step * self.lane_batch
        left = length - from_step * self.lane_batch
        while left:
            position %= self.samples  # the last num_streams go on with the first samples
            place = int(np.searchsorted(self._ends, position, "right"))
            shard, end = int(self._shards[place]), int(self._ends[place])
            start = position - (end - self.sizes[shard])
            taken = min(left, end - position)
            yield SampleRange(shard, start, start + taken)
            position, left = position + taken, left - taken

    def blocks(self, lane: int, from_step: int = 0) -> Iterator[ShuffleBlock]:
        """The blocks of a lane, from the one that holds a step.

        First blocks differ in length from lane to lane, so that num_streams read one after the other and
        not all at the same step.
        """
        whole = max(1, self.buffer // self.global_batch_size)
        first, steps, number = 0, -(-whole * (lane + 1) // self.num_streams), 0
        while first < self.steps:
            steps = min(steps, self.steps - first)
            if from_step < first + steps:
                rng = np.random.default_rng([self.seed, self.epoch, lane, number])
                yield ShuffleBlock(first, steps, rng.permutation(steps * self.lane_batch))
            first, steps, number = first + steps, whole, number + 1

    def lanes_of(self, rank: int, world: int) -> range:
        """The num_streams that a rank reads; ranks in turn make up the whole step."""
        unit = shared_unit(self.global_batch_size, self.num_streams, self.micro_batch_size)
        mine = rank_slice(self.global_batch_size // unit, rank, world)
        num_streams = unit // self.lane_batch
        return range(mine.start * num_streams, mine.stop * num_streams)

    def shares(self, world: int) -> list[int]:
        """Samples of a step that each rank has; they differ by a unit of sharing at most."""
        return [len(self.lanes_of(rank, world)) * self.lane_batch for rank in range(world)]

    def order(self) -> np.ndarray:
        """The whole epoch, [steps, global_batch_size]: numbers of the samples within the split."""
        offsets = np.cumsum([0, *self.sizes])
        num_streams = []
        for lane in range(self.num_streams):
            read = np.concatenate(
                [
                    np.arange(offsets[s.shard] + s.start, offsets[s.shard] + s.stop)
                    for s in self.segments(lane)
                ]
            )
            shuffled = [
                read[block.first * self.lane_batch + block.order] for block in self.blocks(lane)
            ]
            num_streams.append(np.concatenate(shuffled).reshape(self.steps, self.lane_batch))
        return np.concatenate(num_streams, axis=1)


def check_sharing(
    global_batch_size: int, num_streams: int, micro_batch_size: int, world: int, samples: int
) -> None:
    """Refuses what ranks cannot share.

    Raises:
        KdeovError: There are fewer parts of a step, or fewer samples, than ranks.
    """
    unit = shared_unit(global_batch_size, num_streams, micro_batch_size)
    if global_batch_size // unit < world:
        raise KdeovError(
            f"distill.global_batch_size = {global_batch_size} has {global_batch_size // unit} parts of {unit} "
            f"images (whole micro-batches of {micro_batch_size} and whole num_streams of "
            f"{global_batch_size // num_streams}), too few for {world} workers; lower distill.micro_batch_size or "
            "cluster.num_workers, or raise distill.num_streams or distill.global_batch_size"
        )
    if samples < world:
        raise KdeovError(
            f"{samples} training images are fewer than {world} workers; add images or lower "
            "cluster.num_workers"
        )


def shared_unit(global_batch_size: int, num_streams: int, micro_batch_size: int) -> int:
    """Samples of a step that no two ranks share: whole num_streams, and whole micro-batches."""
    return math.lcm(global_batch_size // num_streams, micro_batch_size)


def rank_slice(count: int, rank: int, world: int) -> range:
    """A rank's share of `count` things: consecutive, nothing dropped, nothing twice; sizes differ
    by at most one.
    """
    return range(count * rank // world, count * (rank + 1) // world)
