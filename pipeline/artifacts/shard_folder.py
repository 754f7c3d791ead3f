"""Where the shards of a manifest are: beside it, or in a storage by their content.

A manifest is the same wherever the shards lie, so that moving them changes nothing that follows
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdeov.errors import DataError
from pipeline.artifacts.manifest import Manifest, writer_of
from pipeline.artifacts.offsets import (
    SUFFIX,
    decode_starts,
    encode_starts,
    index_path,
    starts_in,
)
from pipeline.artifacts.shards import Shard, read_samples, shard_errors, write_shard
from pipeline.storage.checked import fix_of
from pipeline.storage.files import HashedFile, writing
from pipeline.storage.storage import open_storage


@dataclass(frozen=True)
class ShardFolder:
    """A folder with a `manifest.json`, or one above such folders.

    Attributes:
        path: The folder.
        storage: Address of the storage that its shards are in, each as `shards/SHA256.tar`; None
            where they lie in the folder under their names. In a storage or not, a reader takes the
            file of the folder where there is one.
    """

    path: Path
    storage: str | None = None

    def __truediv__(self, split: str) -> ShardFolder:
        return ShardFolder(self.path / split, self.storage)

    def manifest(self) -> Manifest:
        """The manifest of the folder (see `Manifest.read`)."""
        return Manifest.read(self.path, self.storage)

    def where(self, shard: Shard) -> str:
        """The path or address that a shard is read from, for messages."""
        if self.storage is None or self.is_here(shard):
            return str(self.path / shard.name)
        return f"{open_storage(self.storage).where(object_name(shard))} ({shard.name})"

    def open(self, shard: Shard) -> IO[bytes]:
        """A shard to read from; of a bucket, at most two blocks are in memory.

        Raises:
            FileNotFoundError: It is missing.
            DataError: Its size in the storage is not what the manifest says.
        """
        if self.storage is None or self.is_here(shard):
            return open(self.path / shard.name, "rb")
        storage, name = open_storage(self.storage), object_name(shard)
        size = storage.size(name)
        if size not in (None, shard.bytes):
            raise DataError(
                f"{self.where(shard)}: has {size} bytes, its manifest says {shard.bytes}; delete "
                "it and run the stage that wrote it again"
            )
        return storage.open(name, size)

    def read(
        self,
        shard: Shard,
        wanted: Callable[[int], bool] | None = None,
        stop: int | None = None,
        start: int = 0,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Samples of a shard with their numbers (see `read_samples`).

        Nothing before `start` is read where the shard has an index; without one, as older shards
        are, the headers before it are.

        Raises:
            DataError: The shard or its index is damaged, or the shard is missing.
        """
        where = self.where(shard)
        starts = self.starts(shard) if start else None
        with shard_errors(where), self.open(shard) as file:
            yield from read_samples(file, where, shard, wanted, stop, start, starts)

    def starts(self, shard: Shard) -> np.ndarray | None:
        """The byte at which each sample of a shard starts, int64; None where it has no index.

        Raises:
            DataError: The index is damaged, or of another shard.
        """
        try:
            if self.storage is None or self.is_here(shard):
                path = index_path(self.path / shard.name)
                where, data = str(path), path.read_bytes()
            else:
                storage, name = open_storage(self.storage), index_name(shard)
                where, data = storage.where(name), storage.read(name)
        except FileNotFoundError:
            return None
        return decode_starts(data, where, shard.sha256, shard.samples)

    def mend_index(self, shard: Shard) -> None:
        """Writes the index of a shard of the folder, whose bytes are right, where it is missing or
        damaged.

        Raises:
            StorageError: The disk cannot be written.
        """
        path = self.path / shard.name
        try:
            if ShardFolder(self.path).starts(shard) is not None:
                return
        except DataError:
            pass
        with writing(index_path(path)) as file:
            file.write(encode_starts(starts_in(path), shard.sha256))

    def read_verified(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """All samples of a shard, whose bytes are compared with the manifest on the way.

        Raises:
            DataError: The shard is missing or differs, which may show after its last sample.
        """
        where = self.where(shard)
        with shard_errors(where), self.open(shard) as opened:
            file = HashedFile(opened)
            for _, sample in read_samples(file, where, shard):
                yield sample
            self._compare(file, shard)

    def verify(self, shard: Shard) -> None:
        """Compares a shard's bytes with the manifest, and its index with both where it has one.

        Raises:
            DataError: The shard is missing, or it or its index differs.
        """
        where = self.where(shard)
        try:
            with self.open(shard) as file:
                self._compare(HashedFile(file), shard)
            self.starts(shard)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            raise DataError(f"{where}: {reason}; {fix_of(writer_of(self.path))}") from error

    def write(self, name: str, samples: Iterable[dict[str, Any]]) -> Shard:
        """Writes a shard, on the disk first, and returns its entry in the manifest.

        Raises:
            DataError: See `write_shard`.
            StorageError: The disk or the storage cannot be written.
        """
        path = self.path / name
        shard = write_shard(path, samples)
        if self.storage is not None:
            try:
                if not self.is_stored(shard):
                    self._upload(shard)
                elif open_storage(self.storage).size(index_name(shard)) is None:
                    self._upload_index(shard)  # of a shard that an older version wrote
            finally:
                path.unlink()
                index_path(path).unlink(missing_ok=True)
        return shard

    def is_stored(self, shard: Shard) -> bool:
        """Whether the storage has a shard, by its size."""
        found = (
            None if self.storage is None else open_storage(self.storage).size(object_name(shard))
        )
        return found == shard.bytes

    def upload(self, shard: Shard) -> None:
        """Brings a shard of the folder to the storage, if it is not there.

        Raises:
            DataError: It is in neither, or its bytes differ.
            StorageError: The storage cannot be written.
        """
        if not self.is_stored(shard):
            ShardFolder(self.path).verify(shard)
            self._upload(shard)

    def _upload(self, shard: Shard) -> None:
        if self.storage is not None:
            self._upload_index(shard)  # before the shard, so that a stored shard has one
            open_storage(self.storage).upload(self.path / shard.name, object_name(shard))

    def _upload_index(self, shard: Shard) -> None:
        path = index_path(self.path / shard.name)
        if self.storage is not None and path.is_file():
            open_storage(self.storage).upload(path, index_name(shard))

    def _compare(self, file: HashedFile, shard: Shard) -> None:
        if file.digest() != shard.sha256:
            raise DataError(
                f"{self.where(shard)}: its bytes differ from the manifest; "
                f"{fix_of(writer_of(self.path))}"
            )

    def is_here(self, shard: Shard) -> bool:
        """Whether the folder has a shard, by its size."""
        try:
            return (self.path / shard.name).stat().st_size == shard.bytes
        except OSError:
            return False


def object_name(shard: Shard) -> str:
    """Name of a shard in a storage."""
    return f"shards/{shard.sha256}.tar"


def index_name(shard: Shard) -> str:
    """Name of the index of a shard in a storage."""
    return f"shards/{shard.sha256}{SUFFIX}"
