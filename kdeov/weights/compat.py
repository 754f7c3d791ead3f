"""Private parts of the `clip` package, read in clip-anytorch 2.6.0.

The package publishes neither the addresses of its weights nor a download that builds no model.
`tests/kdeov/weights/test_compat.py` fails when a part is gone. open_clip needs no entry here: its
towers are those of the public `open_clip.CustomTextCLIP`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kdeov.errors import ConfigError

CLIP_VERSION = "clip-anytorch 2.6.0"


def model_urls(clip: ModuleType) -> dict[str, str]:
    """Addresses of OpenAI's archives by model name; the last folder of each is the sha256."""
    return dict(_private(clip, "_MODELS"))


def download(clip: ModuleType, url: str, folder: Path) -> Path:
    """Downloads an archive with a progress bar, unless it is there, and compares its sha256."""
    return Path(_private(clip, "_download")(url, str(folder)))


def _private(clip: ModuleType, name: str) -> Any:
    try:
        return getattr(clip.clip, name)
    except AttributeError as error:
        raise ConfigError(
            f"the installed clip package has no clip.clip.{name}; install {CLIP_VERSION}"
        ) from error
