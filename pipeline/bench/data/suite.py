"""`kdeov bench data`: the stages on generated images, from preparing to training steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pipeline.bench.data.data_wait import data_wait_figures
from pipeline.bench.data.embedding import embedding_figures
from pipeline.bench.data.planning import planning_figures
from pipeline.bench.data.preparing import prepare_figures, worker_figures
from pipeline.bench.data.reading import reading_figures
from pipeline.bench.data.rendering import rendering_figures
from pipeline.bench.data.stream_start import stream_start_figures
from pipeline.bench.data.training import step_figures
from pipeline.bench.figures import Figure, measure
from pipeline.bench.fixtures import write_teacher
from pipeline.bench.sizes import BenchSizes

SIZES = BenchSizes()


def data_figures(sizes: BenchSizes) -> list[Figure]:
    """Measures everything, in a temporary folder."""
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as folder:
            return _measure(Path(folder), sizes)
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, sizes: BenchSizes) -> list[Figure]:
    teacher = folder / "teacher"
    write_teacher(teacher, sizes.teacher)
    return measure(
        {
            "preparing": lambda: prepare_figures(folder / "preparing", sizes),
            "preparing on two workers": lambda: worker_figures(folder / "workers", sizes),
            "embedding": lambda: embedding_figures(folder / "embedding", teacher, sizes),
            "reading": lambda: reading_figures(folder / "reading", sizes),
            "rendering": lambda: rendering_figures(sizes),
            "starting amid a shard": lambda: stream_start_figures(folder / "start", sizes),
            "training steps": lambda: step_figures(folder / "steps", teacher, sizes),
            "waiting for data": lambda: data_wait_figures(folder / "data_wait", sizes),
            "planning": lambda: planning_figures(folder / "planning", sizes),
        }
    )
