"""Helpers of tests whose shards lie in a storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import object_name
from pipeline.artifacts.shards import Shard
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.storage.storage import Storage


def texts(folder: Path) -> dict[str, bytes]:
    """All files of a folder that are not shards or their notes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name in ("manifest.json", "dataset.json")
    }


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path, storage: Storage) -> list[Shard]:
    return [shard for s in SPLITS for shard in Manifest.read(folder / s, storage.address).shards]


def paired(params: Params, layout: Layout, split: str = "train") -> list[PairedSample]:
    return list(open_cache(params, layout, split))


def damage(storage: Storage, shard: Shard, edit: Callable[[bytes], bytes]) -> None:
    storage.write(object_name(shard), edit(storage.read(object_name(shard))))


def cut(data: bytes) -> bytes:
    return data[:-20_000]


def flip(data: bytes) -> bytes:
    place = data.index(b"\xff\xd8\xff") + 40 if b"\xff\xd8\xff" in data else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
