"""Exchange of tensors between ranks: with it the loss of N ranks is the loss of one process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def get_rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if _is_initialized() else 0


def get_world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if _is_initialized() else 1


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather(local: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Joins the batches of all ranks, in rank order.

    Gradients flow back to the rank that each row came from, summed over the ranks. DDP then
    averages over the ranks, so a loss that every rank computes on the global batch has exactly the
    gradient of one process.

    Args:
        local: [B, ...].
        sizes: B of every rank; None where all have the same.

    Returns:
        [sum of all B, ...].
    """
    if get_world_size() == 1:
        return local
    sizes = tuple(sizes) if sizes is not None else (len(local),) * get_world_size()
    if not (torch.is_grad_enabled() and local.requires_grad):
        return _gather(local, sizes)
    return _GatherWithGradient.apply(local, sizes)


def _gather(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """All-gather takes tensors of one shape: shorter ones are padded, and cut afterwards."""
    missing = max(sizes) - len(local)
    rows = torch.cat([local, local.new_zeros(missing, *local.shape[1:])]) if missing else local
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in sizes]
    dist.all_gather(parts, rows)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward pass sums all ranks' gradients of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return _gather(local, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        own, end = ctx.sizes[get_rank()], list(accumulate(ctx.sizes))[get_rank()]
        return total[end - own : end], None


def broadcast_object(value: T) -> T:
    """The value of rank 0, on every rank; a plain value that can be pickled."""
    if get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, on every rank; in place."""
    if get_world_size() > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks, on every rank; a new tensor."""
    return sum_over_ranks(values.clone()) / get_world_size()
