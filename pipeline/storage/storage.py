"""Files by address: a folder that machines share, or a bucket (`s3://BUCKET/PREFIX`, by fsspec).

A file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdeov.errors import KdeovError
from pipeline.storage.bucket import PATIENCE_S, PROTOCOLS, Bucket, RemoteFile
from pipeline.storage.files import TEMPORARY, remove_partial, writing

BLOCK = 4 << 20  # bytes of a request while reading, and what an open file of a bucket holds
COPIED = 16 << 20  # bytes of a request while copying


def check_address(address: str) -> str:
    """An address as `Storage` takes it; folders become absolute.

    Raises:
        KdeovError: It names a protocol that is not one of `PROTOCOLS`, or more than a bucket and a
            prefix.
    """
    protocol, separator, rest = address.partition("://")
    if not separator:
        return str(Path(address).expanduser().absolute())
    if protocol not in PROTOCOLS or not re.fullmatch(r"[\w.-]+(/[\w.=+ -]+)*/*", rest):
        others = ", ".join(f"{name}://" for name in list(PROTOCOLS)[1:])
        shown = re.sub(r"://.*@", "://...@", address)  # keys have no place in an address
        raise KdeovError(
            f"storage {shown!r} is neither a folder nor s3://BUCKET/PREFIX (also {others})"
        )
    return address.rstrip("/")


@dataclass(frozen=True)
class Storage:
    """Files below one address; names are relative, with `/`. Plain, so that it can be sent.

    Attributes:
        address: A folder, or a bucket with a prefix.
        patience_s: How long a network that fails is tried again.
    """

    address: str
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", check_address(self.address))

    def __truediv__(self, name: str) -> Storage:
        """What lies below a name."""
        return Storage(f"{self.address}/{name}", self.patience_s)

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return None if "://" in self.address else Path(self.address)

    @property
    def _bucket(self) -> Bucket:
        return Bucket(self.address, self.patience_s)

    def where(self, name: str) -> str:
        """The full address of a file, for people."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: It is not there.
            KdeovError: The storage cannot be read.
        """
        if self.folder is None:
            return self._bucket.read(name)
        with _reading(self.folder / name):
            return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, replacing one of its name.

        Raises:
            KdeovError: The storage cannot be written.
        """
        if self.folder is None:
            self._bucket.write(name, data)
        else:
            with writing(self.folder / name) as file:
                file.write(data)

    def upload(self, path: Path, name: str) -> None:
        """Copies a local file to the storage.

        Raises:
            KdeovError: The storage cannot be written.
        """
        if self.folder is None:
            self._bucket.upload(str(path), name)
        else:
            with open(path, "rb") as source, writing(self.folder / name) as file:
                shutil.copyfileobj(source, file, COPIED)

    def download(self, name: str, path: Path) -> None:
        """Copies a file of the storage to a local one, which is there whole or not at all.

        Raises:
            FileNotFoundError: It is not in the storage.
            KdeovError: The storage cannot be read, or the disk cannot be written.
        """
        with self.open(name) as source, writing(path) as file:
            shutil.copyfileobj(source, file, COPIED)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        """A file to read from, with `seek`; of a bucket, one block is in memory.

        Args:
            name: The file.
            size: Its bytes, where `size` was asked already.

        Raises:
            FileNotFoundError: It is not there.
            KdeovError: The storage cannot be read (also when reading from it).
        """
        if self.folder is not None:
            with _reading(self.folder / name):
                return open(self.folder / name, "rb")
        size = self.size(name) if size is None else size
        if size is None:
            raise FileNotFoundError(self.where(name))
        return io.BufferedReader(RemoteFile(self._bucket, name, size), BLOCK)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where it is not there.

        Raises:
            KdeovError: The storage cannot be read.
        """
        if self.folder is None:
            return self._bucket.size(name)
        path = self.folder / name
        with _reading(path):
            return path.stat().st_size if path.is_file() else None

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files and folders directly below a folder of the storage, sorted; none where
        it is absent. Unfinished files are left out.

        Raises:
            KdeovError: The storage cannot be read.
        """
        if self.folder is None:
            return sorted(self._bucket.names(prefix))
        folder = self.folder / prefix
        with contextlib.suppress(FileNotFoundError), _reading(folder):
            found = [path.name for path in folder.iterdir()]
            return sorted(name for name in found if not name.endswith(TEMPORARY))
        return []

    def for_ray(self) -> dict[str, Any]:
        """Arguments of Ray's `RunConfig` that make it keep its own files here."""
        if self.folder is not None:
            return {"storage_path": str(self.folder)}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        filesystem, root = self._bucket.filesystem({})  # with the patience of its own client
        return {
            "storage_path": root, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))
        }  # fmt: skip

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there.

        Raises:
            KdeovError: The storage cannot be written.
        """
        if self.folder is None:
            self._bucket.delete(name)
        else:
            with _reading(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Removes what a killed process left half-written directly below; a bucket hides it."""
        if self.folder is not None and self.folder.is_dir():
            remove_partial(self.folder)

    def require_writable(self) -> None:
        """Writes and deletes a small file, before hours of work would find that it cannot be done.
        Leaves no trace, not even a folder.

        Raises:
            KdeovError: The storage cannot be written, or read.
        """
        name = f"writable-{uuid.uuid4().hex}"
        places = () if self.folder is None else (self.folder, *self.folder.parents)
        made = [place for place in places if not place.exists()]
        self.write(name, b"?")
        self.read(name)
        self.delete(name)
        for place in made:
            with contextlib.suppress(OSError):  # someone else has put something there
                place.rmdir()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tells in one line of a folder that cannot be used; that a file is missing is no fault."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KdeovError(
            f"{path}: {error.strerror or error}; mend the folder, or what may be done in it"
        ) from error
