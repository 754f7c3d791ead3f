"""Torch operations on lists of tensors, which have underscored names and no documented promise.

Checked with torch 2.7 to 2.14 (`tests/kdeov/training/test_compat.py`). Each is one kernel for many
tensors on a GPU, and equals a loop over the tensors to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies each source into its target, in place."""
    if targets:  # torch refuses empty lists
        torch._foreach_copy_(list(targets), list(sources))


def add_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Adds each source to its target, in place."""
    if targets:
        torch._foreach_add_(list(targets), list(sources))


def move_each(targets: Sequence[Tensor], sources: Sequence[Tensor], share: float) -> None:
    """Moves each target towards its source by a share of the way, in place."""
    if targets:
        torch._foreach_lerp_(list(targets), list(sources), share)
