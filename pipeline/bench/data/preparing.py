"""Preparing images that keep their bytes, against bare decoding."""

from __future__ import annotations

import statistics
from itertools import islice
from pathlib import Path

from PIL import Image

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs
from pipeline.bench.sizes import BenchSizes, captions_csv_params
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.prepare.make_shards import ShardMaker
from pipeline.prepare.sources import open_source


def prepare_figures(folder: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `prepare_speed`: images/s from a folder and a table into shards, as a share of
    Pillow's decoding rate; each in one process.

    Args:
        folder: Folder of images and shards.
        sizes: Sizes of the measurements.
    """
    params = captions_csv_params(folder / "own")
    images = folder / "own" / "images"
    images.mkdir(parents=True)
    paths = [images / f"{number:04d}.jpg" for number in range(sizes.prepare_images)]
    for path, jpeg in zip(paths, islice(photographs(), len(paths)), strict=True):
        path.write_bytes(jpeg)
    rows = "".join(f"{path.name},a photograph\n" for path in paths)
    (images.parent / "captions.csv").write_text("image,caption\n" + rows, encoding="utf-8")

    def bare() -> None:
        for path in paths:
            with Image.open(path) as image:
                image.load()

    def ours() -> None:
        source = open_source(params)
        size = params.samples_per_shard
        with ShardMaker(source.make, processes=1) as maker:
            for _ in maker.make(ShardFolder(folder / "out"), source.inputs, size, lambda _: None):
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
