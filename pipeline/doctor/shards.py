"""Judges shards: whether those that manifests list are there, for every machine that reads them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder, object_name
from pipeline.artifacts.shards import MANIFEST, Manifest, Shard
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, counted, fault, listed, ok
from pipeline.doctor.node import PATIENCE_S, NodeFacts
from pipeline.storage.storage import open_storage

SAMPLED = 32  # whose sizes every node compares; names are compared of all


@dataclass(frozen=True)
class FoundShards:
    """The shards of a checkout.

    Attributes:
        manifests: By their folders.
        storage: Of the shards; None where they lie beside their manifests.
        stored: Their names in the storage.
    """

    manifests: dict[Path, Manifest]
    storage: str | None
    stored: frozenset[str]

    @property
    def listing(self) -> list[tuple[Path, Shard]]:
        """All that manifests list, with their folders."""
        return [(folder, s) for folder, manifest in self.manifests.items() for s in manifest.shards]

    def is_stored(self, shard: Shard) -> bool:
        """Whether a shard is in the storage."""
        return object_name(shard) in self.stored

    def sample(self) -> tuple[tuple[str, int], ...]:
        """Names in the storage, and bytes, of what every node should see."""
        stored = [shard for _, shard in self.listing if self.is_stored(shard)]
        chosen = random.Random(0).sample(stored, min(SAMPLED, len(stored)))
        return tuple((object_name(shard), shard.bytes) for shard in chosen)


def find_shards(params: Params, layout: Layout) -> FoundShards:
    """What manifests list and the storage holds.

    Raises:
        KdeovError: A manifest is damaged, or the storage cannot be read.
    """
    manifests = {
        folder: Manifest.read(folder)
        for parent in (layout.images, layout.embeddings)
        for split in SPLITS
        if ((folder := parent / split) / MANIFEST).is_file()
    }
    address, names = params.data.storage, []
    if address is not None:
        names = open_storage(address, PATIENCE_S).names("shards")
    return FoundShards(manifests, address, frozenset(f"shards/{name}" for name in names))


def shards(found: FoundShards, nodes: list[NodeFacts]) -> list[Check]:
    """Whether all are there, here and for every node."""
    if not found.manifests:
        return [ok("shards", "none made yet: `dvc repro` does")]
    checks = []
    for folder, manifest in found.manifests.items():
        missing = [
            s.name
            for s in manifest.shards
            if not ShardFolder(folder).is_here(s) and not found.is_stored(s)
        ]
        if missing:
            what = f"{len(missing)} of {counted(len(manifest.shards), 'shard')} of {folder}"
            stage = "prepare" if manifest.kind == "images" else "embed"
            text = f"{what} are missing or damaged ({listed(missing)})"
            checks.append(fault("shards", text, f"run `dvc repro -f {stage}`"))
    checks += [
        fault("shards", f"on {node.name}: {listed(node.shards)}", "mend data.storage there")
        for node in nodes
        if node.shards
    ]
    if checks:
        return checks
    listing = found.listing
    size = sum(shard.bytes for _, shard in listing) / 1e6
    text = f"{counted(len(listing), 'shard')}, {size:,.0f} MB, all in {found.storage or 'out/'}"
    if found.storage and (here := sum(not found.is_stored(shard) for _, shard in listing)):
        text = f"{text} but {here:,}, which lie here alone; the first job uploads them"
    return [ok("shards", text)]
