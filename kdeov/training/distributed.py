"""The joined batch: what makes the loss of N ranks the loss of one process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(local: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Joins the batches of all ranks, in rank order.

    Gradients flow back to the rank that each row came from, summed over the ranks. DDP then
    averages over the ranks, so a loss computed on the joined batch by every rank has exactly the
    gradient of one process.

    Args:
        local: [B, ...].
        sizes: B of every rank; None where all have the same.

    Returns:
        [sum of all B, ...].
    """
    if world()[1] == 1:
        return local
    sizes = tuple(sizes) if sizes is not None else (len(local),) * world()[1]
    if not (torch.is_grad_enabled() and local.requires_grad):
        return _gather(local, sizes)
    return _GatherWithGradient.apply(local, sizes)


def _gather(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """All-gather takes equal tensors: shorter ones are filled up, and cut again."""
    missing = max(sizes) - len(local)
    rows = torch.cat([local, local.new_zeros(missing, *local.shape[1:])]) if missing else local
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in sizes]
    dist.all_gather(parts, rows)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward pass sums what every rank says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return _gather(local, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        own, end = ctx.sizes[world()[0]], list(accumulate(ctx.sizes))[world()[0]]
        return total[end - own : end], None


def broadcast_object(value: T) -> T:
    """What rank 0 says, on every rank; a plain value."""
    if world()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, on every rank."""
    if world()[1] > 1:
        dist.all_reduce(values)
    return values
