"""Optimiser, learning-rate schedule and weight averaging of distillation."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


def build_optimizer(
    module: nn.Module,
    learning_rate: float,
    weight_decay: float,
    apart: tuple[nn.Module, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101); norms, biases and temperatures do not
    decay.

    Args:
        module: Trained.
        learning_rate: At its peak.
        weight_decay: Of matrices and convolutions.
        apart: A part of the module, and the learning rate of it alone.
    """
    special = set() if apart is None else set(apart[0].parameters())
    trained = [p for p in module.parameters() if p.requires_grad]
    rates = [(learning_rate, [p for p in trained if p not in special])]
    if apart is not None:
        rates.append((apart[1], [p for p in trained if p in special]))
    groups = [
        {
            "params": [p for p in parameters if (p.ndim > 1) == decays],
            "lr": rate,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for rate, parameters in rates
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """The share of the peak learning rate at `step`: linear warm-up, then a half cosine to 0
    (arXiv:1608.03983).
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def build_schedule(
    optimizer: torch.optim.Optimizer, total: int, warmup: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`warmup_cosine` as a scheduler that is stepped once a training step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total, warmup)
    )


class ExponentialAverage:
    """An exponential moving average of a module's weights and buffers.

    Args:
        module: What is averaged.
        decay: Share of the average that each step keeps; early steps keep less, (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module; counters are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for ours, theirs in zip(
            self.module.state_dict().values(), module.state_dict().values(), strict=True
        ):
            if ours.is_floating_point():
                ours.lerp_(theirs, 1 - decay)
            else:
                ours.copy_(theirs)
