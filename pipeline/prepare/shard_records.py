"""Shard records: what each finished image shard was made from, and what its inputs gave.

With records, a killed run resumes and a second one makes what changed alone. The record of a shard
is written last; it lies beside the shard as `STEM.record.json`, or in a storage as
`prepared/DIGEST OF IDENTITY/DIGEST OF INPUTS.json`, where any checkout finds it.

`.dvcignore` leaves records out of the stage's output: they hold places and times of the inputs, so
that they differ between machines where shards do not.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import DataError, KdeovError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.prepare.readers.base import Rejected
from pipeline.storage.checked import (
    checked_json,
    parse_checked_json,
    read_checked_json,
    write_checked_json,
)
from pipeline.storage.files import digest, sha256_file
from pipeline.storage.storage import open_storage

HASH_BYTES = np.dtype(">u8")


@dataclass
class ShardResult:
    """The result of one shard's inputs.

    Attributes:
        shard: The shard, or None where no input is usable.
        rejected: Inputs that cannot be used.
        hashes: Difference hashes of the images, uint64; empty where images are not compared.
    """

    shard: Shard | None = None
    rejected: list[Rejected] = field(default_factory=list)
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True)
class ShardKey:
    """What a shard is made from.

    Attributes:
        folder: Of the shards of the split.
        name: File name of the shard.
        identity: See `pipeline.prepare.identity.source_identity`.
        inputs: Digest of the inputs.
    """

    folder: ShardFolder
    name: str
    identity: dict[str, Any]
    inputs: str

    @property
    def record_path(self) -> Path:
        """Path of the record of a shard that lies in a folder."""
        return self.folder.path / record_file(self.name)

    @property
    def record_name(self) -> str:
        """Name of the record in a storage."""
        return f"prepared/{digest(self.identity)}/{self.inputs}.json"


def record_file(shard_name: str) -> str:
    """File name of the record of a shard, beside it."""
    return f"{Path(shard_name).stem}.record.json"


def write_record(key: ShardKey, result: ShardResult) -> None:
    """Writes the record of a finished shard.

    Raises:
        StorageError: The record cannot be written.
    """
    record = {
        "identity": key.identity,
        "inputs": key.inputs,
        "shard": None if result.shard is None else asdict(result.shard),
        "rejected": [[rejected.name, rejected.reason] for rejected in result.rejected],
        "hashes": base64.b64encode(result.hashes.astype(HASH_BYTES).tobytes()).decode(),
    }
    if key.folder.storage is None:
        write_checked_json(key.record_path, record)
    else:
        open_storage(key.folder.storage).write(key.record_name, checked_json(record))


def find_finished(key: ShardKey) -> ShardResult | str | None:
    """Looks for a finished shard.

    The bytes of a shard in the folder are compared with its record, and a missing or wrong index is
    written again; with a storage, a valid shard is then uploaded. Of a shard in the storage, whose
    name is its sha256, only the size is compared.

    Returns:
        The result, the reason why the one that exists is invalid, or None without a record.

    Raises:
        StorageError: The storage cannot be read or written.
    """
    if key.folder.storage is None:
        return _find_in_folder(key)
    if (stored := _find_in_storage(key)) is not None:
        return stored
    found = _find_in_folder(key)
    if isinstance(found, ShardResult):
        if found.shard is not None:
            key.folder.upload(found.shard)
        write_record(key, found)
    return found


def _find_in_storage(key: ShardKey) -> ShardResult | None:
    assert key.folder.storage is not None
    try:
        data = open_storage(key.folder.storage).read(key.record_name)
        record = parse_checked_json(data, "shard record", "delete it")
        if (record["identity"], record["inputs"]) != (key.identity, key.inputs):
            return None
        result = _result(record)
    except (FileNotFoundError, DataError, KeyError, TypeError, ValueError):  # none, or damaged
        return None
    if result.shard is not None:
        # equal inputs may have another number in another data set
        result.shard = replace(result.shard, name=key.name)
        if not key.folder.is_stored(result.shard):
            return None
    return result


def _find_in_folder(key: ShardKey) -> ShardResult | str | None:
    path, result, reason = key.folder.path / key.name, ShardResult(), ""
    if not key.record_path.is_file():
        return None
    try:
        record = read_checked_json(key.record_path, "prepare")
        result = _result(record)
        if record["identity"] != key.identity:
            reason = "the params, the source or the version of `prepare` changed"
        elif record["inputs"] != key.inputs:
            reason = "the inputs changed"
        elif result.shard is not None and not path.is_file():
            reason = "the shard is missing"
        elif result.shard is not None and sha256_file(path) != result.shard.sha256:
            reason = "the bytes of the shard changed"
    except (KdeovError, KeyError, TypeError, ValueError):
        reason = "the record is damaged"
    if reason:
        key.record_path.unlink()
        return reason
    if result.shard is not None:
        key.folder.mend_index(result.shard)
    return result


def _result(record: dict[str, Any]) -> ShardResult:
    shard, hashes = record["shard"], base64.b64decode(record["hashes"], validate=True)
    return ShardResult(
        None if shard is None else Shard(**shard),
        [Rejected(name, reason) for name, reason in record["rejected"]],
        np.frombuffer(hashes, HASH_BYTES).astype(np.uint64),
    )
