"""Batch norm's running statistics, moved once a step by all micro-batches of all ranks alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdeov.training.distributed import sum_over_ranks
from kdeov.weights.compat import add_each, copy_each


class RunningStatistics:
    """Makes batch norms' running mean and variance independent of how a global batch is shared.

    Each micro-batch starts from the statistics before the step, and the step ends with the mean of
    the statistics after each. Every micro-batch has the same weight, on whichever rank it was.

    Args:
        module: Holds the batch norms, whose buffers are changed in place.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [
            m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats
        ]
        self.reset()

    def reset(self) -> None:
        """Starts a step."""
        # frozen norms are left out: a mean over micro-batches would move them by rounding
        norms = [m for m in self._norms if m.training]
        named = [(m.running_mean, m.running_var) for m in norms]
        self._buffers = [buffer for pair in named for buffer in pair if buffer is not None]
        self._counters = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._start: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._num_batches = 0

    def restore(self) -> None:
        """Puts the statistics back to those before the step; call before each forward pass."""
        if not self._start:
            self._start = [buffer.clone() for buffer in self._buffers]
            self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        else:
            copy_each(self._buffers, self._start)

    def collect(self) -> None:
        """Adds the statistics after a micro-batch to the sum; call after its forward pass."""
        add_each(self._sums, self._buffers)
        self._num_batches += 1

    def join(self) -> None:
        """Ends the step with the mean over micro-batches and ranks; a collective call."""
        if not self._buffers:
            return
        sums = [value.flatten() for value in self._sums]
        total = sum_over_ranks(torch.cat([*sums, sums[0].new_full((1,), self._num_batches)]))
        parts = (total[:-1] / total[-1]).split([b.numel() for b in self._buffers])
        copy_each(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers, strict=True)])
        for counter in self._counters:
            counter.fill_(0)  # only norms without momentum would read it
        self.reset()
