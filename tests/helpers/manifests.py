"""Manifests, as tests read and change them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest


def manifests(out: Path, storage: str | None = None) -> list[Manifest]:
    """The manifests of all splits."""
    return [Manifest.read(out / split, storage) for split in SPLITS]


def change_first_shard(folder: Path, sha256: str = "0" * 64) -> None:
    """Writes the manifest of other bytes, as the stage would."""
    manifest = Manifest.read(folder)
    first, *others = manifest.shards
    replace(manifest, shards=[replace(first, sha256=sha256), *others]).write(folder)
