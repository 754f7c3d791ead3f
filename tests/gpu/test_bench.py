"""The bench on a GPU measures what it has for a GPU alone."""

from __future__ import annotations

from dataclasses import replace

from pipeline.bench.gpu import suite

SIZES = replace(suite.CPU_SIZES, precision="bfloat16", compile=False)


def test_every_figure_of_a_gpu_is_there(cuda: str) -> None:
    figures = {figure.name: figure for figure in suite.gpu_figures(cuda, SIZES)}
    assert figures.keys() == {
        "step_share", "fed_step_share", "student_images_per_s", "loader_images_per_s",
        "loader_cores", "bfloat16_speedup", "channels_last_speedup", "launch_share",
        "train_memory_gib", "teacher_views_per_s", "embedding_share", "embedding_share_4_views",
        "embedding_share_nvjpeg", "embed_memory_gib",
    }  # fmt: skip
    assert figures["step_share"].bar == 0.98
    assert all(figure.value > 0 for figure in figures.values())
    assert suite.machine(cuda)["card"]
