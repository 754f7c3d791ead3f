"""The states of a process's random number generators, which a checkpoint holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from kdeov.training.distributed import get_rank, get_world_size


def seed_rng(*entropy: int) -> None:
    """Seeds Python, NumPy and torch (with its GPUs) from some integers, such as (seed, rank)."""
    words = np.random.SeedSequence(entropy).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


def get_rng_state() -> dict[str, Any]:
    """The states of Python, NumPy, torch and this process's GPU, as plain values and tensors that
    `torch.load(weights_only=True)` reads.
    """
    state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *map(float, rest)),
        "torch": torch.get_rng_state(),
        # only of this process's GPU: the others may be gone when the run resumes
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(states: dict[str, Any]) -> None:
    """The inverse of `get_rng_state`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    numbers = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((name, numbers, int(position), int(has_gauss), cached))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu())


def gather_rng_states() -> list[dict[str, Any]]:
    """The states of every rank, on every rank; a collective call."""
    rank, world_size = get_rank(), get_world_size()
    states: list[Any] = [None] * world_size
    states[rank] = get_rng_state()
    if world_size > 1:
        dist.all_gather_object(states, states[rank])
    return states
