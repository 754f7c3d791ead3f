"""The joined batch: what makes the loss of N ranks the loss of one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(local: Tensor) -> Tensor:
    """Joins equally sized batches of all ranks, in rank order.

    Gradients flow back to the rank that each row came from, summed over the ranks. DDP then
    averages over the ranks, so a loss computed on the joined batch by every rank has exactly the
    gradient of one process.

    Args:
        local: [B, ...], the same B on every rank.

    Returns:
        [world * B, ...].
    """
    if world()[1] == 1:
        return local
    if not (torch.is_grad_enabled() and local.requires_grad):
        parts = [torch.empty_like(local) for _ in range(world()[1])]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)
    return _GatherWithGradient.apply(local)


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward pass sums what every rank says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local) for _ in range(world()[1])]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        first = world()[0] * ctx.rows
        return total[first : first + ctx.rows]


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, on every rank."""
    if world()[1] > 1:
        dist.all_reduce(values)
    return values
