"""Preparing images that keep their bytes, against bare decoding, and on two workers against one."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from PIL import Image

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs
from pipeline.bench.sizes import BenchSizes, captions_csv_params
from pipeline.config.execution_params import ClusterParams
from pipeline.config.stage_params import PrepareParams
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.prepare.make_shards import make_shards
from pipeline.prepare.plan import ShardPlan
from pipeline.prepare.sources import open_source
from pipeline.runtime.ray_session import ray_session

PER_SHARD = 128  # images, of the shards that workers make


def prepare_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `prepare_speed`: images/s from a folder and a table into shards, as a share of
    Pillow's decoding rate; each in one process.

    Args:
        folder: Folder of images and shards.
        sizes: Sizes of the measurements.
    """
    params = captions_csv_params(folder / "own")
    paths = _write_images(folder / "own", sizes.prepare_images)

    def bare() -> None:
        for path in paths:
            with Image.open(path) as image:
                image.load()

    def ours() -> None:
        plan = _plan(params, folder / "out", params.samples_per_shard)
        for _ in make_shards(plan, plan, ClusterParams(mode="inline"), None, lambda _: None):
            pass

    times = interleaved({"bare": bare, "ours": ours}, sizes.repeats)
    rate = len(paths) / statistics.median(times["bare"])
    return [
        Figure(
            "prepare_speed",
            median_ratio(times["bare"], times["ours"]),
            0.80,
            f"of the {rate:.0f} JPEGs/s that Pillow decodes",
        )
    ]


def worker_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `prepare_two_workers`: images/s of two workers on Ray against those of one, from the
    first finished shard to the last.

    Args:
        folder: Folder of images and shards.
        sizes: Sizes of the measurements; without shards, nothing is measured.
    """
    if not sizes.prepare_shards:
        return []
    params = captions_csv_params(folder / "own")
    _write_images(folder / "own", sizes.prepare_shards * PER_SHARD)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ray_session(2):
        for round_ in range(sizes.repeats):
            for workers, found in rates.items():
                plan = _plan(params, folder / f"{round_}-{workers}", PER_SHARD)
                found.append(_rate(plan, workers))
    return [
        Figure(
            "prepare_two_workers",
            median_ratio(rates[2], rates[1]),
            1.7,
            f"times the {statistics.median(rates[1]):.0f} images/s of one worker on Ray",
        )
    ]


def _rate(plan: ShardPlan, workers: int) -> float:
    """Inputs a second of workers that have started."""
    cluster = ClusterParams(mode="local", use_gpu=False)
    made = [
        (time.perf_counter(), task.size)
        for task, _ in make_shards(plan, plan, cluster, workers, lambda _: None)
    ]
    return sum(size for _, size in made[1:]) / (made[-1][0] - made[0][0])


def _plan(params: PrepareParams, out: Path, size: int) -> ShardPlan:
    return ShardPlan(params.source, None, open_source(params), ShardFolder(out), size)


def _write_images(folder: Path, number: int) -> list[Path]:
    """Writes images and their table; of images beyond the first few, links have other names."""
    images = folder / "images"
    images.mkdir(parents=True)
    distinct = [images / f"{index:06d}.jpg" for index in range(min(number, 256))]
    for path, jpeg in zip(distinct, photographs(), strict=False):
        path.write_bytes(jpeg)
    paths = [images / f"{index:06d}.jpg" for index in range(number)]
    for index, path in enumerate(paths[len(distinct) :]):
        os.link(distinct[index % len(distinct)], path)
    rows = "".join(f"{path.name},a photograph\n" for path in paths)
    (folder / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")
    return paths
