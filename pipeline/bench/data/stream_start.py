"""The start of a stream amid a shard, as after a resume: by the index of the shard."""

from __future__ import annotations

import statistics
import time
from itertools import repeat
from pathlib import Path

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import write_images
from pipeline.bench.sizes import BenchSizes

IMAGE_BYTES = 20_000
STARTS = 7  # at even distances


def stream_start_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `stream_start_ms`, from the call to the first sample.

    Args:
        folder: Folder of shards.
        sizes: Sizes of the measurement.
    """
    count = sizes.shard_samples
    manifest = write_images(folder / "train", repeat(bytes(IMAGE_BYTES)), count, 1, count)
    shards, shard = ShardFolder(folder / "train"), manifest.shards[0]
    next(shards.read(shard))  # imports what reading needs
    times = []
    for place in range(1, STARTS + 1):
        start = time.perf_counter()
        next(shards.read(shard, start=place * count // (STARTS + 1)))
        times.append(time.perf_counter() - start)
    return [
        Figure(
            "stream_start_ms",
            1000 * statistics.median(times),
            5,
            f"amid a shard of {count:,} images",
            at_most=True,
        )
    ]
