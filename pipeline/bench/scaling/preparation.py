"""Preparing a large data set, simulated: shards of the ordered inputs, which workers of equal speed
take from a queue, as `pipeline/runtime/pool.py` hands them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Preparation:
    """Work of the workers.

    Attributes:
        shards: Number of shards.
        missed: Inputs that are in no shard.
        repeated: Inputs that are in a shard again.
        rounds: Shards that the busiest worker makes, the last one of them perhaps a shorter one.
        busy: Share of the time until the last worker ends in which workers are busy.
    """

    shards: int
    missed: int
    repeated: int
    rounds: int
    busy: float


def simulate_preparation(splits: Sequence[int], per_shard: int, workers: int) -> Preparation:
    """Counts over all shards of all splits.

    Args:
        splits: Inputs of each split.
        per_shard: Inputs of a shard: shard k holds those from k * per_shard on.
        workers: Number of workers.
    """
    sizes: list[np.ndarray] = []
    missed = repeated = 0
    for inputs in splits:
        start = np.arange(0, inputs, per_shard)
        stop = np.minimum(start + per_shard, inputs)
        seams = start[1:] - stop[:-1]
        missed += int(np.maximum(seams, 0).sum()) + inputs - int(stop[-1] if len(stop) else 0)
        repeated += int(np.maximum(-seams, 0).sum())
        sizes.append(stop - start)
    work = np.concatenate(sizes)
    # equal workers take equal shards in turns; a shorter one of a split's end is close to the last
    loads = np.zeros(workers)
    for begin in range(0, len(work), workers):
        some = work[begin : begin + workers]
        order = np.argsort(loads, kind="stable")[: len(some)]  # who is free first, takes the next
        loads[order] += some
    return Preparation(
        shards=len(work),
        missed=missed,
        repeated=repeated,
        rounds=-(-len(work) // workers),
        busy=float(work.sum() / (loads.max() * workers)),
    )
