"""Files by address: a folder that machines share, or a bucket (`s3://BUCKET/PREFIX`, by fsspec)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any, Protocol

from kdeov.errors import ConfigError
from pipeline.storage.bucket import PROTOCOLS, BucketStorage
from pipeline.storage.folder import FolderStorage
from pipeline.storage.retries import PATIENCE_S

MAX_REQUESTS = 8  # that a process makes at once where it reads many files


class Storage(Protocol):
    """Files below one address; names are relative, with `/`.

    A file is there whole or not at all. Instances are plain values that can be sent to other
    processes. All methods raise `StorageError` where the storage cannot be read or written.
    """

    @property
    def address(self) -> str:
        """A folder, or a bucket with a prefix; without a slash at its end."""

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for a bucket."""

    def __truediv__(self, name: str) -> Storage:
        """The storage below a name."""

    def where(self, name: str) -> str:
        """The full address of a file, for messages."""

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: It is not there.
        """

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, replacing one of its name."""

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Compare-and-swap: writes `new` only while the file's bytes are `old`.

        Of several processes that swap the same `old` at once, one succeeds. This holds among swaps,
        on all machines; `write` ignores it.

        Args:
            name: A small file.
            old: Its bytes; None where it must not exist.
            new: Bytes that no other process writes, so that a lost answer can be recovered.

        Returns:
            Whether `new` was written.
        """

    def upload(self, path: Path, name: str) -> None:
        """Copies a local file to the storage."""

    def download(self, name: str, path: Path) -> None:
        """Copies a file of the storage to a local one, which is there whole or not at all.

        Raises:
            FileNotFoundError: It is not in the storage.
        """

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        """A file to read from, with `seek`; of a bucket, at most two blocks are in memory.

        Args:
            name: The file.
            size: Its bytes, where they are known; saves a request.

        Raises:
            FileNotFoundError: It is not there.
        """

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where it is not there."""

    def names(self, prefix: str = "") -> list[str]:
        """Sorted names of the finished files and folders directly below a folder of the storage;
        none where it is absent.
        """

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""

    def clean(self) -> None:
        """Removes half-written files of killed processes directly below; a bucket has none."""

    def require_writable(self) -> None:
        """Writes and deletes a small file, so that a lack of permission shows before hours of work.
        Makes no folder, and leaves nothing.
        """

    def for_ray(self) -> dict[str, Any]:
        """Arguments of Ray's `RunConfig` that make Ray keep its own files here."""


def check_address(address: str) -> str:
    """An address as `open_storage` takes it; folders become absolute.

    Raises:
        ConfigError: It names a protocol that is not one of `PROTOCOLS`, or more than a bucket and
            a prefix.
    """
    protocol, separator, rest = address.partition("://")
    mistyped = ":" in address and address.partition(":")[0] in PROTOCOLS  # s3:/BUCKET
    if not separator and not mistyped:
        return str(Path(address).expanduser().absolute())
    if protocol not in PROTOCOLS or not re.fullmatch(r"[\w.-]+(/[\w.=+ -]+)*/*", rest):
        others = ", ".join(f"{name}://" for name in list(PROTOCOLS)[1:])
        shown = re.sub(r"://.*@", "://...@", address)  # keys have no place in an address
        raise ConfigError(
            f"storage {shown!r} is neither a folder nor s3://BUCKET/PREFIX (also {others})"
        )
    return address.rstrip("/")


def open_storage(address: str, patience_s: float = PATIENCE_S) -> Storage:
    """The storage at an address.

    Args:
        address: A folder, or `s3://BUCKET/PREFIX`.
        patience_s: For how long a failing network is retried.

    Raises:
        ConfigError: See `check_address`.
    """
    address = check_address(address)
    if "://" in address:
        return BucketStorage(address, patience_s)
    return FolderStorage(address)
