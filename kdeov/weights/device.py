"""Devices by name, and copies to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdeov.errors import ConfigError, first_line


def usable_device(device: str | torch.device | None) -> torch.device:
    """A device by name; CUDA where there is one, by default.

    Raises:
        ConfigError: The name is unknown, or this machine has no such device.
    """
    try:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        found = torch.device(default if device is None else device)
        if found.type == "meta":
            raise ValueError("it holds no numbers")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        reason = first_line(error).split(", ")[0]
        raise ConfigError(
            f"device {device!r} cannot be used ({reason}); choose cpu, or cuda where there is a GPU"
        ) from error
    return found


def upload(tensor: Tensor, device: str | torch.device) -> Tensor:
    """A tensor on a device. To a GPU it goes through pinned memory, and neither side waits: a plain
    `to` would wait until the GPU is idle.
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def join_tensors(tensors: Sequence[Tensor], pinned: bool) -> Tensor:
    """Tensors one after the other, in new memory.

    Args:
        tensors: Alike but for their length.
        pinned: Whether to pinned memory, from which a GPU copies.
    """
    shape = (sum(map(len, tensors)), *tensors[0].shape[1:])
    out = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pinned)
    return torch.cat(tuple(tensors), out=out)
