"""Manifests in two levels: a shard more costs a chunk and the root, and damage is one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.manifest import CHUNK_SHARDS, Manifest, upload_chunks
from pipeline.artifacts.shards import Shard, shard_name
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import writing
from pipeline.storage.storage import Storage

REJECTED = [{"name": "a.png", "reason": "not an image"}, {"name": "b.png", "reason": "empty"}]


def shards(count: int) -> list[Shard]:
    return [
        Shard(shard_name(n), 10_000 - n % 7, n * 512, hashlib.sha256(b"%d" % n).hexdigest())
        for n in range(count)
    ]


def of(count: int, rejected: list[dict[str, str]] | None = None) -> Manifest:
    return Manifest("images", "train", shards(count), {"source": "x"}, rejected or [])


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of each file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    of(count, REJECTED).write(tmp_path)
    found = Manifest.read(tmp_path)
    assert found == of(count, REJECTED)
    assert (found.samples, len(found.rejected)) == (sum(found.sizes), 2)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert text.count('"shards": ') == -(-count // CHUNK_SHARDS) == len(found_chunks(tmp_path))
    assert max(map(len, text.splitlines())) < 200  # a line for each chunk
    assert json.loads((tmp_path / "rejected.json").read_text(encoding="utf-8")) == REJECTED


def found_chunks(folder: Path) -> list[Path]:
    return sorted((folder / "chunks").glob("*")) if (folder / "chunks").exists() else []


@pytest.mark.slow
def test_a_shard_more_writes_one_chunk_and_the_root_however_many_there_are(tmp_path: Path) -> None:
    of(99_500, REJECTED).write(tmp_path)
    before = states(tmp_path)
    start = time.process_time()
    of(99_501, REJECTED).write(tmp_path)
    assert time.process_time() - start < 2
    after = states(tmp_path)
    changed = {name: size for name, (_, size) in after.items() if after[name] != before.get(name)}
    assert len(changed) == 2 and "manifest.json" in changed and sum(changed.values()) < 200_000
    assert len(after) == len(before)  # the chunk that it replaced is gone
    start = time.process_time()
    found = Manifest.read(tmp_path)
    assert time.process_time() - start < 1 and found.shards[-1] == shards(99_501)[-1]


def test_manifests_of_one_file_are_still_read(tmp_path: Path) -> None:
    rows = [vars(shard) for shard in shards(3)]
    values = {
        "format": 2, "kind": "images", "split": "train", "shards": rows, "identity": {"a": 1},
        "rejected": REJECTED, "samples": sum(row["samples"] for row in rows),
    }  # fmt: skip
    write_checked_json(tmp_path / "manifest.json", values)
    assert Manifest.read(tmp_path) == Manifest("images", "train", shards(3), {"a": 1}, REJECTED)
    of(3).write(tmp_path)
    assert Manifest.read(tmp_path) == of(3)


def test_chunks_lie_in_the_storage_where_there_is_one(
    tmp_path: Path, storage: Storage, complains: Any
) -> None:
    folder = tmp_path / "train"
    of(1500).write(folder)
    local = (folder / "manifest.json").read_bytes()
    upload_chunks(folder, storage.address)
    of(1500).write(folder, storage.address)
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert (folder / "manifest.json").read_bytes() == local
    names = storage.names("manifests")
    assert len(names) == 2
    assert Manifest.read(folder, storage.address) == of(1500)
    with complains(folder / "manifest.json", "missing", "data.storage", "dvc repro"):
        Manifest.read(folder)
    storage.write(f"manifests/{names[0]}", b"[]")
    with complains(storage.where(f"manifests/{names[0]}"), "damaged", "delete it"):
        Manifest.read(folder, storage.address)
    storage.delete(f"manifests/{names[0]}")
    with complains(storage.where(f"manifests/{names[0]}"), "missing"):
        Manifest.read(folder, storage.address)
    of(1500).write(folder, storage.address)
    assert Manifest.read(folder, storage.address) == of(1500)


def test_a_missing_or_damaged_chunk_is_named_and_written_again(
    tmp_path: Path, complains: Any
) -> None:
    folder = tmp_path / "embeddings" / "train"
    of(1500).write(folder)
    chunk = found_chunks(folder)[0]
    whole = chunk.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(b'"000000.tar"', b'"000009.tar"')):
        chunk.write_bytes(damaged)
        with complains(chunk, "dvc repro -f embed"):
            Manifest.read(folder)
    of(1500).write(folder)
    assert Manifest.read(folder) == of(1500)
    chunk.unlink()
    with complains(chunk, "missing", "dvc repro -f embed"):
        Manifest.read(folder)


def test_rejected_inputs_are_counted_without_their_file_and_compared_with_it(
    tmp_path: Path, complains: Any
) -> None:
    of(1, REJECTED).write(tmp_path)
    path = tmp_path / "rejected.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a.png", b"c.png"))
    found = Manifest.read(tmp_path)
    assert len(found.rejected) == 2
    with complains(path, "damaged or edited"):
        found.rejected[0]
    path.unlink()
    with complains(path, "dvc repro -f prepare"):
        list(Manifest.read(tmp_path).rejected)
    of(1).write(tmp_path)
    assert Manifest.read(tmp_path).rejected == []


def test_only_chunks_are_deleted(tmp_path: Path) -> None:
    of(1).write(tmp_path)
    (tmp_path / "chunks" / "mine.txt").touch()
    of(2).write(tmp_path)
    assert (tmp_path / "chunks" / "mine.txt").exists() and len(found_chunks(tmp_path)) == 2


def test_a_half_written_chunk_of_a_killed_run_is_deleted(tmp_path: Path) -> None:
    of(1).write(tmp_path)
    with writing(tmp_path / "chunks" / "a.json") as file:
        file.write(b"half")
        (half,) = (tmp_path / "chunks").glob("a.json.*")
        left = half.with_name(half.name.replace("a.json", "b.json"))
        shutil.copy(half, left)
    (tmp_path / "chunks" / "a.json").unlink()
    of(2).write(tmp_path)
    assert not left.exists() and len(found_chunks(tmp_path)) == 1
