"""The state of every random generator of a process, with which a run goes on as it would have."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from kdeov.training.distributed import world


def seed_generators(*entropy: int) -> None:
    """Seeds Python, NumPy and torch (with its GPUs) from some integers, such as (seed, rank)."""
    words = np.random.SeedSequence(entropy).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


def generator_states() -> dict[str, Any]:
    """Plain values and tensors, as `torch.load(weights_only=True)` reads them."""
    state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *map(float, rest)),
        "torch": torch.get_rng_state(),
        # of this process' own GPU: others may not be there when it goes on
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_generators(states: dict[str, Any]) -> None:
    """The inverse of `generator_states`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    numbers = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((name, numbers, int(position), int(has_gauss), cached))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu())


def states_of_all_ranks() -> list[dict[str, Any]]:
    """The states of every rank, on every rank; all of them call this."""
    rank, size = world()
    states: list[Any] = [None] * size
    states[rank] = generator_states()
    if size > 1:
        dist.all_gather_object(states, states[rank])
    return states
