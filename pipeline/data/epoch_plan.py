"""The data plan: which sample goes to which rank at which step, known before step 0.

An epoch shuffles the shards and cuts their joined samples into `lanes` of equal length, each a
sequential reader. Every step takes the next few samples of every lane, so a batch mixes as many
places of the data as there are lanes. Within a lane, samples are shuffled in blocks: the samples
that are in memory at the same time. All of it is a pure function of (shard sizes, seed, epoch).
Ranks share the lanes, in whole micro-batches: the order of samples is the same for any number of
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
class Segment:
    """Consecutive samples of one shard: numbers `start` to `stop` within it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
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
    last lanes go on with the first ones.

    Attributes:
        sizes: Samples of each shard.
        seed: Of the shuffling.
        epoch: Counts from 0; each one has its own order.
        global_batch: Samples a step, over all ranks.
        lanes: Sequential readers, over all ranks; a divisor of `global_batch`.
        buffer: Samples that are held in memory and shuffled together, over all ranks.
        micro_batch: Samples of a step that stay together on a rank; a divisor of `global_batch`.

    Raises:
        KdeovError: There are no samples, or the lanes cannot share a step evenly.
    """

    sizes: Sequence[int]
    seed: int
    epoch: int
    global_batch: int
    lanes: int
    buffer: int
    micro_batch: int = 1

    def __post_init__(self) -> None:
        if not self.samples:
            raise KdeovError(
                "there is nothing to train on: the manifest lists no samples; run `dvc repro "
                "prepare`"
            )
        if self.global_batch % self.lanes:
            raise KdeovError(
                f"distill.global_batch = {self.global_batch} cannot be shared by distill.lanes = "
                f"{self.lanes}; make it a multiple of the lanes"
            )

    @cached_property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(self.sizes)

    @property
    def steps(self) -> int:
        """Steps of every rank."""
        return -(-self.samples // self.global_batch)

    @property
    def repeated(self) -> int:
        """How many samples are shown a second time to fill the last step."""
        return self.steps * self.global_batch - self.samples

    @property
    def lane_batch(self) -> int:
        """Samples that a lane gives to a step."""
        return self.global_batch // self.lanes

    @cached_property
    def _shards(self) -> np.ndarray:
        """The shards in this epoch's order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sizes))

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each of them ends in the joined samples."""
        return np.cumsum(np.asarray(self.sizes)[self._shards])

    def segments(self, lane: int, from_step: int = 0) -> Iterator[Segment]:
        """What a lane reads, in order, from a step to the end of the epoch."""
        length = self.steps * self.lane_batch
        position = lane * length + from_step * self.lane_batch
        left = length - from_step * self.lane_batch
        while left:
            position %= self.samples  # the last lanes go on with the first samples
            place = int(np.searchsorted(self._ends, position, "right"))
            shard, end = int(self._shards[place]), int(self._ends[place])
            start = position - (end - self.sizes[shard])
            taken = min(left, end - position)
            yield Segment(shard, start, start + taken)
            position, left = position + taken, left - taken

    def blocks(self, lane: int, from_step: int = 0) -> Iterator[Block]:
        """The blocks of a lane, from the one that holds a step.

        First blocks differ in length from lane to lane, so that lanes read one after the other and
        not all at the same step.
        """
        whole = max(1, self.buffer // self.global_batch)
        first, steps, number = 0, -(-whole * (lane + 1) // self.lanes), 0
        while first < self.steps:
            steps = min(steps, self.steps - first)
            if from_step < first + steps:
                rng = np.random.default_rng([self.seed, self.epoch, lane, number])
                yield Block(first, steps, rng.permutation(steps * self.lane_batch))
            first, steps, number = first + steps, whole, number + 1

    def lanes_of(self, rank: int, world: int) -> range:
        """The lanes that a rank reads; ranks in turn make up the whole step."""
        unit = shared_unit(self.global_batch, self.lanes, self.micro_batch)
        mine = rank_slice(self.global_batch // unit, rank, world)
        lanes = unit // self.lane_batch
        return range(mine.start * lanes, mine.stop * lanes)

    def shares(self, world: int) -> list[int]:
        """Samples of a step that each rank has; they differ by a unit of sharing at most."""
        return [len(self.lanes_of(rank, world)) * self.lane_batch for rank in range(world)]

    def order(self) -> np.ndarray:
        """The whole epoch, [steps, global_batch]: numbers of the samples within the split."""
        offsets = np.cumsum([0, *self.sizes])
        lanes = []
        for lane in range(self.lanes):
            read = np.concatenate(
                [
                    np.arange(offsets[s.shard] + s.start, offsets[s.shard] + s.stop)
                    for s in self.segments(lane)
                ]
            )
            shuffled = [
                read[block.first * self.lane_batch + block.order] for block in self.blocks(lane)
            ]
            lanes.append(np.concatenate(shuffled).reshape(self.steps, self.lane_batch))
        return np.concatenate(lanes, axis=1)


def check_sharing(
    global_batch: int, lanes: int, micro_batch: int, world: int, samples: int
) -> None:
    """Refuses what ranks cannot share.

    Raises:
        KdeovError: There are fewer parts of a step, or fewer samples, than ranks.
    """
    unit = shared_unit(global_batch, lanes, micro_batch)
    if global_batch // unit < world:
        raise KdeovError(
            f"distill.global_batch = {global_batch} has {global_batch // unit} parts of {unit} "
            f"pictures (whole micro-batches of {micro_batch} and whole lanes of "
            f"{global_batch // lanes}), too few for {world} workers; lower distill.micro_batch or "
            "cluster.workers, or raise distill.lanes or distill.global_batch"
        )
    if samples < world:
        raise KdeovError(
            f"{samples} training pictures are fewer than {world} workers; add pictures or lower "
            "cluster.workers"
        )


def shared_unit(global_batch: int, lanes: int, micro_batch: int) -> int:
    """Samples of a step that no two ranks share: whole lanes, and whole micro-batches."""
    return math.lcm(global_batch // lanes, micro_batch)


def rank_slice(count: int, rank: int, world: int) -> range:
    """A rank's share of `count` things: consecutive, nothing dropped, nothing twice; sizes differ
    by at most one.
    """
    return range(count * rank // world, count * (rank + 1) // world)
