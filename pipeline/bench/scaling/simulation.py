"""The data plan of a large run, simulated rank by rank: whether every sample is read once and every
rank has equal work, and the time and memory of the plan itself.

The figures are exact: the segments of all streams are compared, not a sample of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.manifest import Manifest
from pipeline.bench.data.planning import PER_SHARD, peak_megabytes, write_manifest
from pipeline.bench.figures import Figure
from pipeline.bench.scaling.preparation import simulate_preparation
from pipeline.bench.sizes import PlanSize
from pipeline.data.epoch_plan import EpochPlan


@dataclass(frozen=True)
class Simulation:
    """Work of the ranks in an epoch.

    Attributes:
        steps: Steps of every rank.
        missed: Samples that no rank reads.
        repeated: Samples that are read again, to fill the last step.
        rank_samples: Fewest and most samples of a rank.
        rank_shards: Fewest and most shards that a rank opens.
        shard_readers: Most streams that read one shard at the same step.
        skipped: Samples of a shard before the first one of a stream, as a share of all samples.
        held: Most samples in the buffer of a rank.
        burst: Most samples that a rank reads between two steps.
    """

    steps: int
    missed: int
    repeated: int
    rank_samples: tuple[int, int]
    rank_shards: tuple[int, int]
    shard_readers: int
    skipped: float
    held: int
    burst: int


def simulate(plan: EpochPlan, ranks: int) -> Simulation:
    """Counts over all segments of an epoch.

    Args:
        plan: Plan of the epoch.
        ranks: Number of ranks.
    """
    rank_of = np.repeat(np.arange(ranks), [len(plan.streams_of(r, ranks)) for r in range(ranks)])
    # [segments, 4]: stream, shard, first sample, and the one after the last
    stream, shard, start, stop = np.array(
        [(n, s.shard, s.start, s.stop) for n in range(plan.num_streams) for s in plan.ranges(n)]
    ).T
    length = stop - start
    samples = np.bincount(rank_of[stream], length, ranks).astype(int)
    pairs = np.unique(rank_of[stream] * len(plan.sizes) + shard)
    shards = np.bincount(pairs // len(plan.sizes), minlength=ranks)
    # the steps that use a segment; no segment continues in another stream
    first = (np.cumsum(length) - length) % (plan.steps * plan.stream_batch) // plan.stream_batch
    last = first + -(-length // plan.stream_batch)
    depth, covered = _overlaps(shard, start, stop)
    held, burst = _rank_buffer(plan, plan.streams_of(0, ranks))
    return Simulation(
        steps=plan.steps,
        missed=plan.samples - int(covered[depth > 0].sum()),
        repeated=int((covered * np.maximum(depth - 1, 0)).sum()),
        rank_samples=(int(samples.min()), int(samples.max())),
        rank_shards=(int(shards.min()), int(shards.max())),
        shard_readers=int(_overlaps(shard, first, last)[0].max()),
        skipped=float(start.sum() / plan.samples),
        held=held,
        burst=burst,
    )


def _overlaps(group: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[Any, Any]:
    """Depth and length of each stretch between two ends of intervals, where depth counts the
    intervals of one group that cover it.
    """
    groups, positions = np.tile(group, 2), np.concatenate([start, stop])
    change = np.repeat([1, -1], len(group))
    order = np.lexsort([change, positions, groups])  # one that ends where another begins ends first
    groups, positions, depth = groups[order], positions[order], np.cumsum(change[order])
    inside = groups[:-1] == groups[1:]  # behind the last end of a group, the depth is 0
    return depth[:-1], np.where(inside, np.diff(positions), 0)


def _rank_buffer(plan: EpochPlan, streams: range) -> tuple[int, int]:
    """Most samples that a rank holds, and most that it reads between two steps."""
    read = np.zeros(plan.steps, int)
    held = 0
    for stream in streams:
        blocks = list(plan.blocks(stream))
        held += max(len(block.order) for block in blocks)
        for block in blocks:
            read[block.first] += len(block.order)
    return held, int(read.max())


def simulation_figures(folder: Path, size: PlanSize) -> list[Figure]:
    """Measures `large_plan_*`: the plan of one rank before its first step, and the work of all.

    Args:
        folder: Folder of the manifest.
        size: Size of the run.
    """
    write_manifest(folder, size.samples)

    def one_rank() -> EpochPlan:
        Manifest.read(folder)  # of the images; then that of the embeddings
        plan = size.plan(Manifest.read(folder).sizes)
        for stream in plan.streams_of(0, size.ranks):
            list(plan.ranges(stream))
            next(plan.blocks(stream))
        return plan

    start = time.perf_counter()
    plan = one_rank()
    seconds = time.perf_counter() - start
    found = simulate(plan, size.ranks)
    prepared = simulate_preparation([size.samples], PER_SHARD, size.ranks)
    (fewest, most), share = found.rank_samples, size.global_batch_size / size.ranks
    shards = "{} to {}".format(*found.rank_shards)
    return [
        Figure(
            "large_plan_missed",
            found.missed,
            0,
            f"of {size.samples:,} samples; {found.repeated:,} come twice to fill the last step",
            at_most=True,
        ),
        Figure(
            "large_plan_imbalance",
            most - fewest,
            0,
            f"samples between {size.ranks:,} ranks of {most:,} each, in {shards} shards",
            at_most=True,
        ),
        Figure(
            "large_plan_prepare_missed",
            prepared.missed + prepared.repeated,
            0,
            f"inputs in no shard or in two of {prepared.shards:,}",
            at_most=True,
        ),
        Figure(
            "large_plan_prepare_busy",
            prepared.busy,
            None,
            f"of the time, {size.ranks:,} workers prepare",
        ),
        Figure("large_plan_seconds", seconds, 5, "on each rank", at_most=True),
        Figure("large_plan_megabytes", peak_megabytes(one_rank), 500, "on each rank", at_most=True),
        Figure("large_plan_readers", found.shard_readers, None, "of a shard at the same step"),
        Figure(
            "large_plan_skipped",
            found.skipped,
            None,
            "of a shard's samples, before the first one of a stream",
        ),
        Figure("large_plan_held", found.held, None, "samples in the buffer of a rank"),
        Figure(
            "large_plan_burst",
            found.burst / share,
            None,
            "steps' samples that a rank reads at once",
        ),
    ]
