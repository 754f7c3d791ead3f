"""Batch norm's running statistics, moved once a step by all micro-batches of all ranks alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdeov.training.distributed import sum_over_ranks


class RunningStatistics:
    """Makes the running mean and variance of batch norms independent of how a batch is shared.

    Each micro-batch starts from the statistics before the step, and the step ends with the mean of
    what each one made of them. Every micro-batch has the same weight, on whichever rank it was.

    Args:
        module: Whose batch norms are looked after; its tensors stay where they are.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [
            m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats
        ]
        self.reset()

    def reset(self) -> None:
        """Before a step."""
        # a mean over micro-batches would move what is frozen by rounding
        norms = [m for m in self._norms if m.training]
        named = [(m.running_mean, m.running_var) for m in norms]
        self._buffers = [buffer for pair in named for buffer in pair if buffer is not None]
        self._counters = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._start: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._batches = 0

    def restore(self) -> None:
        """Before the forward pass of a micro-batch: the statistics before the step."""
        if not self._start:
            self._start = [buffer.clone() for buffer in self._buffers]
            self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        else:
            torch._foreach_copy_(self._buffers, self._start)

    def collect(self) -> None:
        """After it: what it made of them."""
        torch._foreach_add_(self._sums, self._buffers)
        self._batches += 1

    def join(self) -> None:
        """At the end of the step: the mean over micro-batches and ranks."""
        if not self._buffers:
            return
        sums = [value.flatten() for value in self._sums]
        total = sum_over_ranks(torch.cat([*sums, sums[0].new_tensor([self._batches])]))
        parts = (total[:-1] / total[-1]).split([b.numel() for b in self._buffers])
        torch._foreach_copy_(
            self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers, strict=True)]
        )
        for counter in self._counters:
            counter.fill_(0)  # only norms without momentum would read it
        self.reset()
