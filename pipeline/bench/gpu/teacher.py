"""Embedding on a GPU, from image shards to teacher shards, against the bare teacher."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kdeov.teachers.base import TowerTeacher
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import no_progress, shard_task, write_teacher
from pipeline.bench.gpu.bare import wait_for
from pipeline.bench.gpu.sizes import GpuSizes
from pipeline.bench.sizes import embed_params
from pipeline.embedding.worker import EmbedConfig, EmbedWorker
from pipeline.evaluation.shared.timing import interleaved, median_ratio

VIEWS = 4


def teacher_figures(folder: Path, device: str, sizes: GpuSizes) -> list[Figure]:
    """Measures `embedding_share`, `embedding_share_4_views` and `teacher_views_per_s`; on a GPU,
    `embedding_share_nvjpeg` and memory too.

    A run reads, decodes, embeds and writes a whole shard with its record, as the stage `embed`
    does, with a thread a core. The images have no captions.

    Args:
        folder: Folder of shards and the teacher.
        device: `cuda` or `cpu`.
        sizes: Sizes of the measurements.
    """
    gpu, cores = device == "cuda", os.cpu_count() or 1
    write_teacher(folder / "teacher", sizes.teacher)
    params = embed_params(VIEWS, sizes.precision)
    config = EmbedConfig(params, folder / "teacher", gpu, sizes.embed_batch, cores if gpu else None)
    worker = EmbedWorker(config)
    many = shard_task(folder, "train", sizes.embed_views // VIEWS)
    one = shard_task(folder, "val", sizes.embed_views)
    teacher, batch = worker.teacher, worker.batch
    assert isinstance(teacher, TowerTeacher)
    side = sizes.data.image_size
    pixels = torch.randn(batch, 3, side, side, device=device)
    mixed = sizes.precision != "float32"
    dtype = getattr(torch, sizes.precision)

    def bare() -> None:
        with torch.autocast(device, dtype if mixed else None, enabled=mixed):
            for _ in range(max(1, sizes.embed_views // batch)):
                teacher.encode_image(pixels)
        wait_for(device)

    calls: dict[str, Callable[[], object]] = {
        "bare": bare,
        "one": lambda: worker.run(one, no_progress),
        "many": lambda: worker.run(many, no_progress),
    }
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        decoding = params.model_copy(update={"decoder": "nvjpeg"})
        nvjpeg = EmbedWorker(replace(config, params=decoding))
        calls["nvjpeg"] = lambda: nvjpeg.run(one, no_progress)
    times = interleaved(calls, sizes.repeats)
    views = max(1, sizes.embed_views // batch) * batch
    rate = views / statistics.median(times["bare"])
    scale = sizes.embed_views / views
    figures = [
        Figure("teacher_views_per_s", rate, None, f"bare, {batch} a pass, {sizes.precision}"),
        Figure(
            "embedding_share",
            scale * median_ratio(times["bare"], times["one"]),
            None,
            f"of the bare teacher's rate, {cores} cores decoding",
        ),
        Figure(
            "embedding_share_4_views",
            scale * median_ratio(times["bare"], times["many"]),
            None,
            "the same with 4 views an image",
        ),
    ]
    if gpu:
        share = scale * median_ratio(times["bare"], times["nvjpeg"])
        figures.append(Figure("embedding_share_nvjpeg", share, None, "the GPU decoding, one view"))
        memory = torch.cuda.max_memory_allocated() / 2**30
        figures.append(Figure("embed_memory_gib", memory, None, "at most"))
    return figures
