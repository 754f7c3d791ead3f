"""The data plan of a large run, gone through rank by rank: is every sample read once, does each
rank have equally much to do, and what does the plan itself cost?

All of it is exact: what is compared are the segments of all streams, not a sample of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.shards import Manifest
from pipeline.bench.data.planning import peak_megabytes, write_manifest
from pipeline.bench.figures import Figure
from pipeline.bench.sizes import PlanSize
from pipeline.data.epoch_plan import EpochPlan


@dataclass(frozen=True)
class Simulation:
    """What an epoch asks of its ranks.

    Attributes:
        steps: Of every rank.
        missed: Samples that nobody reads.
        repeated: Samples that are read again, to fill the last step.
        rank_samples: The fewest and the most that a rank reads.
        rank_shards: The fewest and the most shards that a rank opens.
        shard_readers: The most streams that read one shard at the same step.
        passed_over: Samples in front of those that a lane wants of a shard, as a share of all.
        held: The most samples that a rank holds.
        burst: The most samples that a rank reads between two steps.
    """

    steps: int
    missed: int
    repeated: int
    rank_samples: tuple[int, int]
    rank_shards: tuple[int, int]
    shard_readers: int
    passed_over: float
    held: int
    burst: int


def simulate(plan: EpochPlan, ranks: int) -> Simulation:
    """Goes through all segments of an epoch.

    Args:
        plan: Of the epoch.
        ranks: How many share it.
    """
    rank_of = np.repeat(np.arange(ranks), [len(plan.streams_of(r, ranks)) for r in range(ranks)])
    # [segments, 4]: lane, shard, and from which to which sample of it
    lane, shard, start, stop = np.array(
        [(n, s.shard, s.start, s.stop) for n in range(plan.num_streams) for s in plan.ranges(n)]
    ).T
    length = stop - start
    samples = np.bincount(rank_of[lane], length, ranks).astype(int)
    pairs = np.unique(rank_of[lane] * len(plan.sizes) + shard)
    shards = np.bincount(pairs // len(plan.sizes), minlength=ranks)
    # the steps at which a segment is shown; no segment goes on into another lane
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
        passed_over=float(start.sum() / plan.samples),
        held=held,
        burst=burst,
    )


def _overlaps(group: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[Any, Any]:
    """How many of the intervals of a group lie over each other, and over what length, for each
    stretch between two of their ends.
    """
    groups, places = np.tile(group, 2), np.concatenate([start, stop])
    change = np.repeat([1, -1], len(group))
    order = np.lexsort([change, places, groups])  # one that ends where another begins ends first
    groups, places, depth = groups[order], places[order], np.cumsum(change[order])
    inside = groups[:-1] == groups[1:]  # behind the last end of a group, the depth is 0
    return depth[:-1], np.where(inside, np.diff(places), 0)


def _rank_buffer(plan: EpochPlan, streams: range) -> tuple[int, int]:
    """Samples that a rank holds, and those that it reads between two steps, at most."""
    read = np.zeros(plan.steps, int)
    held = 0
    for lane in streams:
        blocks = list(plan.blocks(lane))
        held += max(len(block.order) for block in blocks)
        for block in blocks:
            read[block.first] += len(block.order)
    return held, int(read.max())


def simulation_figures(folder: Path, size: PlanSize) -> list[Figure]:
    """`large_plan_*`: what a rank does before its first step, and what the epoch asks of all ranks.

    Args:
        folder: Where the manifest goes.
        size: Of the run.
    """
    write_manifest(folder, size.samples)

    def one_rank() -> EpochPlan:
        Manifest.read(folder)  # that of the images, and that of the teacher's vectors
        plan = size.plan(Manifest.read(folder).sizes)
        for lane in plan.streams_of(0, size.ranks):
            list(plan.ranges(lane))
            next(plan.blocks(lane))
        return plan

    start = time.perf_counter()
    plan = one_rank()
    seconds = time.perf_counter() - start
    found = simulate(plan, size.ranks)
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
        Figure("large_plan_seconds", seconds, 5, "that it takes each rank", at_most=True),
        Figure("large_plan_megabytes", peak_megabytes(one_rank), 500, "on each rank", at_most=True),
        Figure("large_plan_readers", found.shard_readers, None, "of a shard at the same step"),
        Figure(
            "large_plan_passed_over",
            found.passed_over,
            None,
            "of a shard's samples, to the start of a lane",
        ),
        Figure("large_plan_held", found.held, None, "samples in the buffer of a rank"),
        Figure(
            "large_plan_burst",
            found.burst / share,
            None,
            "steps' samples that a rank reads at once",
        ),
    ]
