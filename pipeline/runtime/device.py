"""Which device this process computes on."""

from __future__ import annotations

import torch

from kdeov.errors import KdeovError


def pick_device(use_gpu: bool | str = "auto") -> str:
    """`cuda` or `cpu`.

    Raises:
        KdeovError: A GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if use_gpu is True and not available:
        raise KdeovError(
            "cluster.use_gpu is true and there is no GPU here; set it to auto or false"
        )
    return "cuda" if available and use_gpu else "cpu"
