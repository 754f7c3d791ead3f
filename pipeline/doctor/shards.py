"""Checks of shards: every machine finds the shards that manifests list."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import MANIFEST, Manifest
from pipeline.artifacts.shard_folder import ShardFolder, object_name
from pipeline.artifacts.shards import Shard
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, error, first_few, ok, quantity
from pipeline.doctor.node import TIMEOUT_S, NodeFacts
from pipeline.storage.storage import open_storage

SAMPLE_SIZE = 32  # shards whose sizes every node compares; names of all are compared once


@dataclass(frozen=True)
class FoundShards:
    """The shards of a checkout.

    Attributes:
        manifests: Manifests by folder.
        storage: Address of the storage; None where shards lie beside their manifests.
        stored: Names of shards in the storage.
    """

    manifests: dict[Path, Manifest]
    storage: str | None
    stored: frozenset[str]

    @property
    def listing(self) -> list[tuple[Path, Shard]]:
        """Folder and shard of every entry of the manifests."""
        return [(folder, s) for folder, manifest in self.manifests.items() for s in manifest.shards]

    def is_stored(self, shard: Shard) -> bool:
        """Whether a shard is in the storage."""
        return object_name(shard) in self.stored

    def sample(self) -> tuple[tuple[str, int], ...]:
        """Names in the storage and bytes of the shards that every node looks for."""
        stored = [shard for _, shard in self.listing if self.is_stored(shard)]
        chosen = random.Random(0).sample(stored, min(SAMPLE_SIZE, len(stored)))
        return tuple((object_name(shard), shard.bytes) for shard in chosen)


def find_shards(params: Params, layout: Layout) -> FoundShards:
    """Reads the manifests and lists the storage.

    Raises:
        KdeovError: A manifest is damaged, or the storage cannot be read.
    """
    manifests = {
        folder: Manifest.read(folder, params.data.storage)
        for parent in (layout.images, layout.embeddings)
        for split in SPLITS
        if ((folder := parent / split) / MANIFEST).is_file()
    }
    address, names = params.data.storage, []
    if address is not None:
        names = open_storage(address, TIMEOUT_S).names("shards")
    return FoundShards(manifests, address, frozenset(f"shards/{name}" for name in names))


def shards(found: FoundShards, nodes: list[NodeFacts]) -> list[Check]:
    """Checks that all shards exist, here and for every node."""
    if not found.manifests:
        return [ok("shards", "none yet; `dvc repro` makes them")]
    checks = []
    for folder, manifest in found.manifests.items():
        missing = [
            s.name
            for s in manifest.shards
            if not ShardFolder(folder).is_here(s) and not found.is_stored(s)
        ]
        if missing:
            count = f"{len(missing)} of {quantity(len(manifest.shards), 'shard')} of {folder}"
            stage = "prepare" if manifest.kind == "images" else "embed"
            text = f"{count} are missing or damaged ({first_few(missing)})"
            checks.append(error("shards", text, f"run `dvc repro -f {stage}`"))
    checks += [
        error(
            "shards", f"on {node.name}: {first_few(node.shards)}", "check data.storage on that node"
        )
        for node in nodes
        if node.shards
    ]
    if checks:
        return checks
    listing = found.listing
    size = sum(shard.bytes for _, shard in listing) / 1e6
    text = f"{quantity(len(listing), 'shard')}, {size:,.0f} MB, all in {found.storage or 'out/'}"
    if found.storage and (here := sum(not found.is_stored(shard) for _, shard in listing)):
        text = f"{text} but {here:,}, which are on this machine alone; the first job uploads them"
    return [ok("shards", text)]
