"""The record of a finished teacher shard: a damaged one is none, and its shard is made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.config.paths import Layout
from pipeline.embedding.shard_records import find_finished, record_name, record_path, write_record
from pipeline.storage.storage import open_storage
from tests.helpers.damage import flips


@pytest.mark.parametrize("place", ["folder", "storage"])
def test_a_damaged_record_never_gives_another_shard(
    checkout: Layout, tmp_path: Path, place: str
) -> None:
    images = ShardFolder(checkout.images / "val").manifest().shards
    here = ShardFolder(checkout.embeddings / "val")
    identity, finished = here.manifest().identity, here.manifest().shards
    if place == "folder":
        out, path = here, record_path(here.path, images[0])
    else:
        out = replace(here, storage=str(tmp_path / "storage"))
        path = tmp_path / "storage" / record_name(identity, images[0])
        open_storage(str(tmp_path / "storage")).require_writable()
        out.upload(finished[0])
        write_record(out, images[0], identity, finished[0])
        record_path(here.path, images[0]).unlink()
    whole = path.read_bytes()
    assert find_finished(out, images[0], identity) == finished[0]
    other = whole.replace(finished[0].sha256.encode(), finished[-1].sha256.encode())
    for damaged in [b"", whole[: len(whole) // 2], other, *flips(whole, 30, seed=0)]:
        path.write_bytes(damaged)
        assert not isinstance(find_finished(out, images[0], identity), Shard)
    path.write_bytes(whole)
    assert find_finished(out, images[0], identity) == finished[0]
