"""Sections `teacher` of params that tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def clip_file(path: Path) -> dict[str, Any]:
    """A CLIP in a weight file."""
    return {"source": "clip", "path": str(path), "clip": {"model": str(path)}}
