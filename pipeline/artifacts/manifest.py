"""The manifest of a split: a root with a line for each chunk, and chunks of 1,000 shards each.

A chunk is named by its sha256 and never changes, so a data set that grows by a shard writes one
chunk and the root again, whatever its size. Chunks lie in `chunks/SHA256.json` beside the root, or
in a storage as `manifests/SHA256.json`; inputs that were left out are in `rejected.json` beside the
root, which counts them. The root holds the digests of all of these: a digest of the root covers
every shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.shards import Shard
from pipeline.storage.checked import fix_of, with_digest, without_digest
from pipeline.storage.files import json_text, read_json, remove_partial, write_text, writing
from pipeline.storage.storage import MAX_REQUESTS, open_storage

MANIFEST, CHUNKS, REJECTED = "manifest.json", "chunks", "rejected.json"
EMBEDDINGS = "embeddings"  # the folder above the splits of teacher shards
FORMAT = 3
ONE_FILE = 2  # the format that listed all shards and rejected inputs in the root
CHUNK_SHARDS = 1_000


@dataclass(frozen=True)
class Manifest:
    """The shards of one split.

    Attributes:
        kind: `images` or `teacher`.
        split: `train`, `val` or `test`.
        shards: In order.
        identity: Everything that the shards were made from.
        rejected: Inputs that were left out, each with `name` and `reason`. Of a manifest that was
            read, the file is read when an entry is asked for; its length is known before.
    """

    kind: str
    split: str
    shards: list[Shard]
    identity: dict[str, Any]
    rejected: Sequence[dict[str, str]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.shards]

    def write(self, folder: Path, storage: str | None = None) -> None:
        """Writes the chunks that are not there, `rejected.json`, and the root last. Deletes chunks
        of the folder that the root does not list.

        Args:
            folder: Receives the root.
            storage: Address of the storage that receives the chunks; None leaves them beside the
                root.

        Raises:
            StorageError: The folder or the storage cannot be written.
        """
        starts = range(0, len(self.shards), CHUNK_SHARDS)
        chunks = [_Chunk.of(self.shards[start : start + CHUNK_SHARDS]) for start in starts]
        if storage is None:
            for chunk in chunks:
                _write_if_other(folder / CHUNKS / chunk.file, chunk.data)
        else:
            _store(storage, chunks)
        rejected = _write_rejected(folder / REJECTED, self.rejected)
        values = {
            "format": FORMAT,
            "kind": self.kind,
            "split": self.split,
            "identity": self.identity,
            "samples": self.samples,
            "rejected": {"count": len(self.rejected), "sha256": rejected},
            "chunks": [chunk.line for chunk in chunks],
        }
        write_text(folder / MANIFEST, _root_text(values))
        _remove_chunks(folder, set() if storage else {chunk.file for chunk in chunks})

    @classmethod
    def read(cls, folder: Path, storage: str | None = None) -> Manifest:
        """Reads a root and its chunks, or a manifest of one file, as older versions wrote it.

        Args:
            folder: With `manifest.json`.
            storage: Address of the storage that holds the chunks which are not in the folder.

        Raises:
            DataError: A file is missing, damaged, edited or of another format.
            StorageError: The storage cannot be read.
        """
        path, fix = folder / MANIFEST, fix_of(writer_of(folder))
        values = _read_root(folder)
        try:
            if values["format"] == ONE_FILE:
                shards, rejected = (
                    [Shard(**shard) for shard in values["shards"]],
                    values["rejected"],
                )
            else:
                shards = list(chain(*_read_chunks(folder, storage, values["chunks"])))
                rejected = StoredRejections(folder / REJECTED, **values["rejected"], fix=fix)
            manifest = cls(values["kind"], values["split"], shards, values["identity"], rejected)
            if manifest.samples != values["samples"]:
                raise DataError(f"{path}: its chunks hold other samples; {fix}")
            return manifest
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); {fix}") from error


class StoredRejections(Sequence[dict[str, str]]):
    """The rejected inputs of a manifest, which may be millions: read when an entry is asked for.

    Args:
        path: Their file.
        count: Number of them.
        sha256: Of the file; None where there are none, and no file.
        fix: What to do about a damaged file.
    """

    def __init__(self, path: Path, count: int, sha256: str | None, fix: str) -> None:
        self._path, self._count, self._sha256, self._fix = path, count, sha256, fix

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _entries(self) -> list[dict[str, str]]:
        if self._sha256 is None:
            return []
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise DataError(f"{self._path}: {error.strerror}; {self._fix}") from error
        if hashlib.sha256(data).hexdigest() != self._sha256:
            raise DataError(f"{self._path}: damaged or edited; {self._fix}")
        return json.loads(data)


@dataclass(frozen=True)
class _Chunk:
    """Some shards as they are stored: the bytes of the file, its name and its line in the root."""

    data: bytes
    line: dict[str, Any]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> _Chunk:
        rows = ([shard.name, shard.samples, shard.bytes, shard.sha256] for shard in shards)
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        data = f"[\n{lines}\n]\n".encode()
        samples = sum(shard.samples for shard in shards)
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(data, {"sha256": sha256, "shards": len(shards), "samples": samples})

    @property
    def file(self) -> str:
        return f"{self.line['sha256']}.json"


def chunk_name(sha256: str) -> str:
    """Name of a chunk in a storage."""
    return f"manifests/{sha256}.json"


def upload_chunks(folder: Path, storage: str) -> None:
    """Brings the chunks of a manifest of the folder to a storage that lacks them.

    Raises:
        DataError: The root is missing or damaged, or a chunk is, or is in neither.
        StorageError: The storage cannot be written.
    """
    lines = _read_root(folder).get("chunks", [])
    _store(storage, [_Chunk(_read_chunk(folder, storage, line), line) for line in lines])


def writer_of(folder: Path) -> str:
    """The stage that writes the folder of a split, `images/SPLIT` or `embeddings/SPLIT`."""
    return "embed" if folder.parent.name == EMBEDDINGS else "prepare"


def _store(storage: str, chunks: list[_Chunk]) -> None:
    opened = open_storage(storage)

    def put(chunk: _Chunk) -> None:
        name = chunk_name(chunk.line["sha256"])
        if opened.size(name) != len(chunk.data):
            opened.write(name, chunk.data)

    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        list(pool.map(put, chunks))


def _write_if_other(path: Path, data: bytes) -> None:
    """Writes a file, unless it has these bytes."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    with writing(path) as file:
        file.write(data)


def _write_rejected(path: Path, rejected: Sequence[dict[str, str]]) -> str | None:
    """Writes the rejected inputs; returns the sha256 of the file, or None without any."""
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    data = json_text(list(rejected)).encode()
    _write_if_other(path, data)
    return hashlib.sha256(data).hexdigest()


def _root_text(values: dict[str, Any]) -> str:
    """The JSON of a root, with a line for each chunk."""
    lines = ",\n".join(f"    {json.dumps(line, sort_keys=True)}" for line in values["chunks"])
    text = json_text({**with_digest(values), "chunks": []})
    return text.replace('\n  "chunks": []', f'\n  "chunks": [\n{lines}\n  ]') if lines else text


def _read_root(folder: Path) -> dict[str, Any]:
    """The values of `manifest.json` of any format.

    Raises:
        DataError: It is missing, damaged, edited or of another format.
    """
    path, stage = folder / MANIFEST, writer_of(folder)
    values = read_json(path, stage)
    if not isinstance(values, dict) or "format" not in values:
        raise DataError(f"{path}: damaged ('format'); {fix_of(stage)}")
    if values["format"] not in (FORMAT, ONE_FILE):
        raise DataError(f"{path}: another format; {fix_of(stage)}")
    return without_digest(values, path, fix_of(stage))


def _read_chunks(
    folder: Path, storage: str | None, lines: list[dict[str, Any]]
) -> Iterator[list[Shard]]:
    with ThreadPoolExecutor(MAX_REQUESTS if storage else 1) as pool:
        for data in pool.map(lambda line: _read_chunk(folder, storage, line), lines):
            yield [Shard(*row) for row in json.loads(data)]


def _read_chunk(folder: Path, storage: str | None, line: dict[str, Any]) -> bytes:
    """The bytes of a chunk, of the folder or else of the storage, compared with their name.

    Raises:
        DataError: It is in neither, or damaged.
    """
    path = folder / CHUNKS / f"{line['sha256']}.json"
    fix, where = fix_of(writer_of(folder)), str(path)
    try:
        if storage is None or path.is_file():
            data = path.read_bytes()
        else:
            opened, name = open_storage(storage), chunk_name(line["sha256"])
            where = opened.where(name)
            data = opened.read(name)
    except OSError as error:
        text = f"{where}: a part of {folder / MANIFEST} is missing; check data.storage, or {fix}"
        raise DataError(text) from error
    if hashlib.sha256(data).hexdigest() != line["sha256"]:
        raise DataError(f"{where}: a damaged part of {folder / MANIFEST}; delete it and {fix}")
    return data


def _remove_chunks(folder: Path, listed: set[str]) -> None:
    """Deletes the chunks of a folder that are not listed, and their folder once it is empty."""
    if (folder / CHUNKS).is_dir():
        remove_partial(folder / CHUNKS)
    for path in (folder / CHUNKS).glob("*.json"):
        if path.name not in listed:
            path.unlink()
    with contextlib.suppress(OSError):
        (folder / CHUNKS).rmdir()
