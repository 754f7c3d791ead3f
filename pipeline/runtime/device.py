"""Which device this process computes on, and with how many CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdeov.errors import ConfigError


def pick_device(use_gpu: bool | str = "auto") -> str:
    """`cuda` or `cpu`.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if use_gpu is True and not available:
        raise ConfigError(
            "cluster.use_gpu is true and there is no GPU here; set it to auto or false"
        )
    return "cuda" if available and use_gpu else "cpu"


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Sets the number of torch's CPU threads, on which the rounding of sums depends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
