"""A checkout whose shards lie in a storage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.cluster.upload import upload_missing
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.storage import Storage


@pytest.fixture
def stored(built: Layout, storage: Storage, tmp_path: Path) -> tuple[Layout, Storage]:
    """A checkout that has manifests alone; what they list is in the storage."""
    layout = Layout(tmp_path / "stored")
    shutil.copytree(built.root, layout.root, symlinks=True)
    for side in (layout.images, layout.embeddings):
        for split in SPLITS:
            upload_missing(ShardFolder(side, storage.address) / split)
        for path in (*side.rglob("*.tar"), *side.rglob("0*.json")):
            path.unlink()
    return layout, storage


@pytest.fixture
def stored_params(stored: tuple[Layout, Storage], make_params: Callable[..., Params]) -> Params:
    return make_params(data={"storage": stored[1].address})
