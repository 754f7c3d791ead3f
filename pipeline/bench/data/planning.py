"""Time and memory of planning an epoch of a large data set."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shards import Shard, shard_name
from pipeline.bench.figures import Figure
from pipeline.bench.sizes import BenchSizes
from pipeline.data.epoch_plan import EpochPlan

PER_SHARD = 10_000
SHARD_BYTES = 300_000_000
MEGABYTE = 1_000_000


def planning_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `plan_seconds` and `plan_megabytes`: reading the manifest and planning the whole
    order of an epoch.

    Args:
        folder: Folder of the manifest.
        sizes: Sizes of the measurements.
    """
    write_manifest(folder, sizes.plan_samples)
    seconds = []
    for _ in range(sizes.repeats):
        start = time.perf_counter()
        _plan(folder)
        seconds.append(time.perf_counter() - start)
    samples = f"{sizes.plan_samples:,} samples"
    return [
        Figure(
            "plan_seconds",
            statistics.median(seconds),
            5,
            f"to plan an epoch of {samples}",
            at_most=True,
        ),
        Figure(
            "plan_megabytes",
            peak_megabytes(lambda: _plan(folder)),
            500,
            "most memory that this takes",
            at_most=True,
        ),
    ]


def write_manifest(folder: Path, samples: int) -> None:
    """Writes a manifest of so many samples, without the shards."""
    full, rest = divmod(samples, PER_SHARD)
    counts = [PER_SHARD] * full + [rest] * bool(rest)
    shards = [Shard(shard_name(n), count, SHARD_BYTES, "0" * 64) for n, count in enumerate(counts)]
    Manifest("images", "train", shards, {}).write(folder)


def peak_megabytes(call: Callable[[], object]) -> float:
    """Peak memory of a call, NumPy's included. The call takes longer than usual."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


def _plan(folder: Path) -> None:
    manifest = Manifest.read(folder)
    EpochPlan(manifest.sizes, 0, epoch=0, global_batch_size=64, num_streams=16, buffer=4096).order()
