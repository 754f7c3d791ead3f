"""Embedding from image shards to teacher shards, against the bare forward pass of the teacher."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import torch

from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import no_progress, shard_task
from pipeline.bench.sizes import BenchSizes, embed_params
from pipeline.embedding.worker import EmbedConfig, EmbedWorker
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.teachers.load import load_towers

VIEWS = 4


def embedding_figures(folder: Path, teacher: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `embedding_share` and `embedding_share_4_views`: views/s as a share of the bare
    teacher's, on the CPU with a thread a core.

    A run reads, decodes, embeds and writes a whole shard with its record, as the stage `embed`
    does. The images have no captions, so both sides use the image tower alone.

    Args:
        folder: Folder of shards.
        teacher: Folder of the teacher.
        sizes: Sizes of the measurements.
    """
    # training images have all views, validation images the plain one
    many = shard_task(folder, "train", sizes.embed_views // VIEWS)
    one = shard_task(folder, "val", sizes.embed_views)
    config = EmbedConfig(
        embed_params(VIEWS), teacher, False, sizes.embed_batch, os.cpu_count() or 1
    )
    worker, bare_teacher = EmbedWorker(config), load_towers(teacher)
    pixels = torch.randn(sizes.embed_batch, 3, sizes.image_size, sizes.image_size)

    def bare() -> None:
        for _ in range(sizes.embed_views // sizes.embed_batch):
            bare_teacher.encode_image(pixels)

    times = interleaved(
        {
            "bare": bare,
            "one": lambda: worker.run(one, no_progress),
            "many": lambda: worker.run(many, no_progress),
        },
        sizes.repeats,
    )
    rate = sizes.embed_views / statistics.median(times["bare"])
    return [
        Figure(
            "embedding_share",
            median_ratio(times["bare"], times["one"]),
            0.90,
            f"of the bare teacher's {rate:.1f} views/s",
        ),
        Figure(
            "embedding_share_4_views",
            median_ratio(times["bare"], times["many"]),
            0.93,
            "the same with 4 views an image",
        ),
    ]
