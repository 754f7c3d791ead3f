"""Shard records: what each finished teacher shard was computed from.

With records, runs resume and checkouts share shards. The record of a shard lies beside it, or with
a storage under `teacher/DIGEST OF IDENTITY/SHA256 OF IMAGE SHARD.json`: any checkout that embeds
equal images in the same way finds it there.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdeov.errors import DataError, KdeovError
from pipeline.artifacts.identity import differences
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.storage.checked import (
    checked_json,
    parse_checked_json,
    read_checked_json,
    write_checked_json,
)
from pipeline.storage.files import digest, sha256_file
from pipeline.storage.storage import open_storage


def record_path(out: Path, image_shard: Shard) -> Path:
    """Path of the record of a teacher shard that lies in a folder."""
    return out / f"{Path(image_shard.name).stem}.json"


def record_name(identity: dict[str, Any], image_shard: Shard) -> str:
    """Name of the record of a teacher shard in a storage."""
    return f"teacher/{digest(identity)}/{image_shard.sha256}.json"


def write_record(
    out: ShardFolder, image_shard: Shard, identity: dict[str, Any], teacher_shard: Shard
) -> None:
    """Writes the record of a finished teacher shard.

    Args:
        out: Folder of the teacher shards of a split.
        image_shard: The image shard that was embedded.
        identity: The identity of the cache (see `pipeline.artifacts.identity`).
        teacher_shard: The teacher shard.

    Raises:
        StorageError: The record cannot be written.
    """
    record = {
        "identity": identity,
        "images_sha256": image_shard.sha256,
        "shard": asdict(teacher_shard),
    }
    if out.storage is None:
        write_checked_json(record_path(out.path, image_shard), record)
    else:
        name = record_name(identity, image_shard)
        open_storage(out.storage).write(name, checked_json(record))


def find_finished(
    out: ShardFolder, image_shard: Shard, identity: dict[str, Any]
) -> Shard | str | None:
    """Looks for the finished teacher shard of an image shard.

    The bytes of a shard in the folder are compared with its record, and a missing or wrong index is
    written again; with a storage, a valid shard is then uploaded. Of a shard in the storage, whose
    name is its sha256, only the size is compared.

    Args:
        out: Folder of the teacher shards of a split.
        image_shard: The image shard.
        identity: The identity that the cache must have.

    Returns:
        The teacher shard, the reason why the one that exists is invalid, or None without a record.
    """
    if out.storage is None:
        return _find_in_folder(out.path, image_shard, identity)
    if (stored := _find_in_storage(out, image_shard, identity)) is not None:
        return stored
    found = _find_in_folder(out.path, image_shard, identity)
    if isinstance(found, Shard):
        out.upload(found)
        write_record(out, image_shard, identity, found)
    return found


def _find_in_storage(
    out: ShardFolder, image_shard: Shard, identity: dict[str, Any]
) -> Shard | None:
    assert out.storage is not None
    try:
        data = open_storage(out.storage).read(record_name(identity, image_shard))
        record = parse_checked_json(data, "shard record", "delete it")
        # an equal image shard of another data set may have another number there
        shard = replace(Shard(**record["shard"]), name=image_shard.name)
        valid = record["images_sha256"] == image_shard.sha256 and record["identity"] == identity
    except (FileNotFoundError, DataError, KeyError, TypeError):  # no record, or a damaged one
        return None
    valid = valid and shard.samples == image_shard.samples and out.is_stored(shard)
    return shard if valid else None


def _find_in_folder(out: Path, image_shard: Shard, identity: dict[str, Any]) -> Shard | str | None:
    record, path = record_path(out, image_shard), out / image_shard.name
    if not record.is_file():
        return None
    try:
        found = read_checked_json(record, "embed")
        shard = Shard(**found["shard"])
        reasons = differences(identity, found["identity"])
        if not reasons and found["images_sha256"] != image_shard.sha256:
            reasons = ["its images changed"]
        if not reasons and not path.is_file():
            reasons = ["it is missing"]
        if not reasons and (
            path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256
        ):
            reasons = ["its bytes changed"]
    except (KdeovError, KeyError, TypeError):
        reasons = ["its record is damaged"]
    if reasons:
        record.unlink()
        return "; ".join(reasons)
    ShardFolder(out).mend_index(shard)
    return shard
