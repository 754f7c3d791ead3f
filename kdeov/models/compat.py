"""Parts of torch and timm that have no public name.

Checked with torch 2.7 to 2.14 and timm 1.0.31 (`tests/kdeov/models/test_compat.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def disable_dropout(network: nn.Module) -> None:
    """Sets every probability of dropout, and of timm's `DropPath` and its kin, to 0, in place."""
    modules: Iterable[Any] = network.modules()
    for module in modules:
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
