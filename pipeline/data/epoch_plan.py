"""The data plan: which sample goes to which rank at which step, known before step 0.

An epoch shuffles the shards, joins their samples, and cuts these into `num_streams` streams of
equal length, each read in sequence. Every step takes the next few samples of every stream, so a
batch mixes as many parts of the data as there are streams. Within a stream, samples
are shuffled in blocks: the samples that are in memory at the same time. All of it is a pure
function of (shard sizes, seed, epoch). Ranks share the streams, in whole micro-batches: the order
of samples is the same for any number of ranks, all have equally many steps, and each reads its own
part of the data alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdeov.errors import DataError
from pipeline.config.batch_sharing import check_sharing, shared_unit


@dataclass(frozen=True)
class SampleRange:
    """Consecutive samples of one shard: numbers `start` to `stop` within it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShuffleBlock:
    """Consecutive steps of a stream whose samples are read, shuffled and held together.

    Attributes:
        first: Step that it begins with.
        steps: How many steps it lasts.
        order: [steps * stream_batch], the shuffled places of its samples in reading order.
    """

    first: int
    steps: int
    order: np.ndarray


@dataclass(frozen=True)
class EpochPlan:
    """The samples of one training epoch: each once. Where they do not fill the last step, the last
    streams continue with the first samples.

    Attributes:
        sizes: Samples of each shard.
        seed: Seed of the shuffling.
        epoch: Number of the epoch, from 0; each has its own order.
        global_batch_size: Samples per step, over all ranks.
        num_streams: Interleaved sequential readers, over all ranks; divides `global_batch_size`.
        buffer: Samples that are in memory and shuffled together, over all ranks.
        micro_batch_size: Samples of a step that stay together on a rank; divides
            `global_batch_size`.

    Raises:
        DataError: There are no samples.
        ConfigError: Streams or micro-batches do not divide a step (see `check_sharing`).
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
            raise DataError(
                "the manifest of the train split lists no samples; run `dvc repro prepare`"
            )
        check_sharing(self.global_batch_size, self.num_streams, self.micro_batch_size)

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
        """Samples that are shown a second time to fill the last step."""
        return self.steps * self.global_batch_size - self.samples

    @property
    def stream_batch(self) -> int:
        """Samples of a stream per step."""
        return self.global_batch_size // self.num_streams

    @cached_property
    def _shards(self) -> np.ndarray:
        """The shards in this epoch's order."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sizes))

    @cached_property
    def _ends(self) -> np.ndarray:
        """The end of each of these shards, counted in samples."""
        return np.cumsum(np.asarray(self.sizes)[self._shards])

    def ranges(self, stream: int, from_step: int = 0) -> Iterator[SampleRange]:
        """The samples of a stream, in reading order, from a step to the end of the epoch."""
        length = self.steps * self.stream_batch
        position = stream * length + from_step * self.stream_batch
        left = length - from_step * self.stream_batch
        while left:
            position %= self.samples  # the last streams continue with the first samples
            place = int(np.searchsorted(self._ends, position, "right"))
            shard, end = int(self._shards[place]), int(self._ends[place])
            start = position - (end - self.sizes[shard])
            taken = min(left, end - position)
            yield SampleRange(shard, start, start + taken)
            position, left = position + taken, left - taken

    def blocks(self, stream: int, from_step: int = 0) -> Iterator[ShuffleBlock]:
        """The blocks of a stream, from the block that holds a step.

        First blocks differ in length from stream to stream, so that streams read one after the
        other and not all at the same step.
        """
        whole = max(1, self.buffer // self.global_batch_size)
        first, steps, number = 0, -(-whole * (stream + 1) // self.num_streams), 0
        while first < self.steps:
            steps = min(steps, self.steps - first)
            if from_step < first + steps:
                rng = np.random.default_rng([self.seed, self.epoch, stream, number])
                yield ShuffleBlock(first, steps, rng.permutation(steps * self.stream_batch))
            first, steps, number = first + steps, whole, number + 1

    def streams_of(self, rank: int, world_size: int) -> range:
        """The streams that a rank reads; the ranks in order make up the whole step."""
        unit = shared_unit(self.global_batch_size, self.num_streams, self.micro_batch_size)
        mine = rank_slice(self.global_batch_size // unit, rank, world_size)
        streams = unit // self.stream_batch
        return range(mine.start * streams, mine.stop * streams)

    def shares(self, world_size: int) -> list[int]:
        """Samples of a step on each rank; they differ by at most a unit (see `shared_unit`)."""
        ranks = range(world_size)
        return [len(self.streams_of(rank, world_size)) * self.stream_batch for rank in ranks]

    def order(self) -> np.ndarray:
        """The whole epoch, [steps, global_batch_size]: numbers of the samples within the split."""
        offsets = np.cumsum([0, *self.sizes])
        streams = []
        for stream in range(self.num_streams):
            read = np.concatenate(
                [
                    np.arange(offsets[s.shard] + s.start, offsets[s.shard] + s.stop)
                    for s in self.ranges(stream)
                ]
            )
            shuffled = [
                read[block.first * self.stream_batch + block.order] for block in self.blocks(stream)
            ]
            streams.append(np.concatenate(shuffled).reshape(self.steps, self.stream_batch))
        return np.concatenate(streams, axis=1)


def rank_slice(count: int, rank: int, world_size: int) -> range:
    """A rank's share of `count` items: consecutive, none dropped and none repeated. The sizes
    of shares differ by at most one.
    """
    return range(count * rank // world_size, count * (rank + 1) // world_size)
