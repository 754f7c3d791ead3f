"""Private parts of the `clip` package, read in clip-anytorch 2.6.0, and of torch.

clip publishes neither the addresses of its weights nor a download that builds no model. Operations
on lists of tensors have underscored names in torch and no documented promise; they were checked
with torch 2.7 to 2.14. Each is one kernel for many tensors on a GPU, and equals a loop over the
tensors to the bit. `tests/kdeov/weights/test_compat.py` fails when a part is gone. open_clip needs
no entry here: its towers are those of the public `open_clip.CustomTextCLIP`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kdeov.errors import ConfigError

CLIP_VERSION = "clip-anytorch 2.6.0"


def model_urls(clip: ModuleType) -> dict[str, str]:
    """Addresses of OpenAI's archives by model name; the last folder of each is the sha256."""
    return dict(_private(clip, "_MODELS"))


def download(clip: ModuleType, url: str, folder: Path) -> Path:
    """Downloads an archive with a progress bar, unless it is there, and compares its sha256."""
    return Path(_private(clip, "_download")(url, str(folder)))


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


def _private(clip: ModuleType, name: str) -> Any:
    try:
        return getattr(clip.clip, name)
    except AttributeError as error:
        raise ConfigError(
            f"the installed clip package has no clip.clip.{name}; install {CLIP_VERSION}"
        ) from error
