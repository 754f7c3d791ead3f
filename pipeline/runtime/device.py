"""Which device this process computes on, how, and with how many CPU threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdeov.errors import ConfigError, first_line


def pick_device(use_gpu: bool | str = "auto") -> str:
    """`cuda`, the current GPU of this process, or `cpu`.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if use_gpu is True and not available:
        raise ConfigError(
            "cluster.use_gpu is true and there is no GPU here; set it to auto or false"
        )
    return "cuda" if available and use_gpu else "cpu"


def missing_gpu() -> str | None:
    """Why this process can use no GPU, in one line; None where it can."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return None


def use_local_gpu() -> None:
    """Makes the GPU with the number `LOCAL_RANK` the current one, as torchrun expects of its
    processes. Ray Train does so itself.

    Raises:
        ConfigError: This machine has fewer GPUs than processes.
    """
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= count:
        raise ConfigError(
            f"LOCAL_RANK is {rank} and this machine has {count} GPUs; start one process a GPU"
        )
    torch.cuda.set_device(rank)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Sets the number of torch's CPU threads, on which the rounding of sums depends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Lets cuDNN time its algorithms for each shape of convolutions, and take the fastest. Shapes
    in training are few and fixed. CPUs are not affected.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check_compiler(device: str) -> None:
    """Compiles a function of one operation for a device, and runs it.

    Raises:
        ConfigError: torch.compile does not work here, for instance for want of a C++ compiler.
    """
    try:
        torch.compile(_square)(torch.ones(2, device=device))
    except Exception as error:  # of torch, of Triton, or of the compiler that they call
        raise ConfigError(
            f"cluster.compile is true and torch.compile fails here ({first_line(error)}); install "
            "what it lacks, or set it to false"
        ) from error


def _square(values: torch.Tensor) -> torch.Tensor:
    return values * values
