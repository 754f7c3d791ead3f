"""The data plan: which sample goes to which rank at which step, known before step 0.

The order of an epoch is a pure function of (shard sizes, seed, epoch): shards are shuffled, then
samples are shuffled within windows of a few shards, so that reading stays close to sequential and
memory is bounded. Step t of the epoch takes the t-th slice of `global_batch` samples, and rank r
the r-th part of that slice. So every rank has the same number of steps, and the order does not
depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdeov.errors import KdeovError


@dataclass(frozen=True)
class EpochPlan:
    """The samples of one epoch, in order.

    Attributes:
        order: Numbers of the samples within the split, padded to whole steps: [steps *
            global_batch].
        windows: Ends of the windows in `order`; a reader needs one window of shards at a time.
        global_batch: Samples a step, over all ranks.
        repeated: How many samples at the end are shown a second time to fill the last step.
    """

    order: np.ndarray
    windows: list[int]
    global_batch: int
    repeated: int

    @property
    def steps(self) -> int:
        """Steps of every rank."""
        return len(self.order) // self.global_batch

    def positions(self, step: int, rank: int, world: int) -> slice:
        """Where in `order` a rank's samples of a step stand."""
        share = self.global_batch // world
        first = step * self.global_batch + rank * share
        return slice(first, first + share)


def plan_epoch(
    sizes: Sequence[int], seed: int, epoch: int, global_batch: int, window: int
) -> EpochPlan:
    """Plans a training epoch: every sample once, the first ones again where the last step is short.

    Args:
        sizes: Samples of each shard.
        seed: Of the shuffling.
        epoch: Counts from 0; each one has its own order.
        global_batch: Samples a step, over all ranks.
        window: Shards that are shuffled together.

    Raises:
        KdeovError: There are no samples.
    """
    if not sum(sizes):
        raise KdeovError(
            "there is nothing to train on: the manifest lists no samples; run `dvc repro prepare`"
        )
    rng = np.random.default_rng([seed, epoch])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    shards = rng.permutation(len(sizes))
    parts, windows, end = [], [], 0
    for first in range(0, len(shards), window):
        ids = np.concatenate(
            [np.arange(offsets[s], offsets[s + 1]) for s in shards[first : first + window]]
        )
        parts.append(rng.permutation(ids))
        end += len(ids)
        windows.append(end)
    order = np.concatenate(parts)
    repeated = -len(order) % global_batch
    if repeated:
        order = np.concatenate([order, np.resize(order, repeated)])
        windows.append(len(order))
    return EpochPlan(order, windows, global_batch, repeated)


def check_batch(global_batch: int, world: int) -> None:
    """Refuses a global batch that ranks cannot share evenly.

    Raises:
        KdeovError: It is no multiple of the world size.
    """
    if global_batch % world:
        raise KdeovError(
            f"distill.global_batch = {global_batch} cannot be shared by {world} workers; make "
            f"it a multiple of {world}"
        )


def rank_slice(count: int, rank: int, world: int) -> range:
    """A rank's samples in evaluation: consecutive, nothing dropped, nothing twice; sizes differ by
    at most one.
    """
    return range(count * rank // world, count * (rank + 1) // world)
