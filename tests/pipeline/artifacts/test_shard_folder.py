"""Shards in a storage: by their content, read as if they lay beside their manifests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder, object_name
from pipeline.cluster.upload import upload_missing
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.data.verify import verify_cache
from pipeline.storage.storage import Storage
from pipeline.teachers.load import load_teacher
from tests.helpers.stored_shards import cut, damage, flip, paired, shards


def test_shards_are_streamed_as_if_they_lay_beside_their_manifests(
    built: Layout, params: Params, stored: tuple[Layout, Storage], stored_params: Params
) -> None:
    for split in SPLITS:
        ours, theirs = paired(stored_params, stored[0], split), paired(params, built, split)
        assert [s.jpeg for s in ours] == [s.jpeg for s in theirs]
        assert [s.view_embeddings.tobytes() for s in ours] == [
            s.view_embeddings.tobytes() for s in theirs
        ]


def test_a_reader_takes_the_file_where_there_is_one(
    built: Layout, stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    for shard in shards(layout.images, storage):
        storage.delete(object_name(shard))
    with complains(storage.address, "missing", "000000.tar"):
        paired(stored_params, layout)
    for path in built.images.rglob("*.tar"):
        shutil.copy(path, layout.images / path.relative_to(built.images))
    assert len(paired(stored_params, layout)) == 24
    local = layout.images / "train" / "000001.tar"
    local.write_bytes(local.read_bytes()[:-1])  # not what the manifest lists
    with complains(storage.address, "missing", "000001.tar"):
        paired(stored_params, layout)


def test_a_truncated_object_is_refused(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    shard = Manifest.read(layout.images / "train", storage.address).shards[1]
    damage(storage, shard, cut)
    with complains(shard.sha256, "000001.tar", f"{shard.bytes - 20_000} bytes", "run the stage"):
        paired(stored_params, layout)


@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_a_wrong_object_is_refused_and_found_by_verify(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any, side: str
) -> None:
    layout, storage = stored
    shard = Manifest.read(getattr(layout, side) / "train", storage.address).shards[1]
    damage(storage, shard, flip)
    with complains(shard.sha256):
        paired(stored_params, layout)
    made_by = "prepare" if side == "images" else "embed"
    with complains(shard.sha256, "its bytes differ", f"dvc repro -f {made_by}"):
        verify_cache(
            open_cache(stored_params, layout, "train"), load_teacher(layout.teacher), 0, whole=True
        )


def test_missing_shards_are_uploaded_from_the_folder(
    built: Layout, storage: Storage, complains: Any, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(built.images, images)
    folder = ShardFolder(images / "train", storage.address)
    upload_missing(folder)
    assert len(storage.names("shards")) == 6  # three shards, each with its index
    for path in folder.path.glob("*.tar"):
        path.unlink()
    upload_missing(folder)  # all are there
    shard = folder.manifest().shards[2]
    storage.delete(object_name(shard))
    with complains(folder.path / shard.name, "missing", "dvc repro -f prepare"):
        upload_missing(folder)
