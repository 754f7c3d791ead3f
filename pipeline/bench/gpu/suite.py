"""`kdeov bench gpu`: the student's steps and the teacher's embeddings on a GPU."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
import torchvision

from pipeline.bench.figures import Figure, measure
from pipeline.bench.gpu.sizes import GpuSizes
from pipeline.bench.gpu.student import student_figures
from pipeline.bench.gpu.teacher import teacher_figures
from pipeline.runtime.device import tuned_convolutions

SIZES = GpuSizes()
CPU_SIZES = GpuSizes(
    teacher=(64, 64, 1, 64, 32, 77, 49408, 64, 1, 1),
    precision="float32",
    batch=8,
    batches=2,
    steps=2,
    embed_views=16,
    embed_batch=8,
    repeats=1,
)


def gpu_figures(device: str, sizes: GpuSizes) -> list[Figure]:
    """Measures everything, in a temporary folder.

    Args:
        device: `cuda`; or `cpu`, where figures of GPUs alone are left out.
        sizes: Sizes of the measurements.
    """
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as name, tuned_convolutions():
            folder = Path(name)
            return measure(
                {
                    "training steps": lambda: student_figures(folder / "student", device, sizes),
                    "embedding": lambda: teacher_figures(folder / "teacher", device, sizes),
                }
            )
    finally:
        torch.set_num_threads(threads)


def machine(device: str) -> dict[str, str]:
    """Names of the hardware and software that figures depend on; `card` is the GPU's."""
    gpu = device == "cuda"
    return {
        "card": torch.cuda.get_device_name() if gpu else "the CPU, as a test",
        "memory": f"{torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB" if gpu else "",
        "cores": str(os.cpu_count()),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": str(torch.version.cuda) if gpu else "",
        "cudnn": str(torch.backends.cudnn.version()) if gpu else "",
    }
