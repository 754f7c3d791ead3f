"""The number format that forward passes compute in."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = ("float32", "bfloat16", "float16")


def autocast(
    device: torch.device | str, precision: str | None = None
) -> contextlib.AbstractContextManager:
    """Mixed precision for a block of forward passes.

    Args:
        device: Where it computes.
        precision: One of `PRECISIONS`; None is bfloat16 on GPUs and float32 elsewhere.
    """
    kind = torch.device(device).type
    precision = precision or ("bfloat16" if kind == "cuda" else "float32")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(kind, dtype=getattr(torch, precision))
