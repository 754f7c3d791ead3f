"""A storage in a folder that machines share."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdeov.errors import StorageError
from pipeline.storage.files import (
    TEMPORARY,
    disk_errors,
    exists,
    flock,
    remove_partial,
    writing,
)

COPY_BUFFER = 16 << 20  # bytes


@dataclass(frozen=True)
class FolderStorage:
    """Files below a folder (see `Storage`).

    Attributes:
        address: The folder, absolute.
    """

    address: str

    def __truediv__(self, name: str) -> FolderStorage:
        return FolderStorage(f"{self.address}/{name}")

    @property
    def folder(self) -> Path:
        return Path(self.address)

    def where(self, name: str) -> str:
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        with _folder_errors(self.folder / name):
            return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with writing(self.folder / name) as file:
            file.write(data)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        path = self.folder / name
        with flock(path.with_name(f".{path.name}.lock")):
            try:
                found: bytes | None = self.read(name)
            except FileNotFoundError:
                found = None
            if found != old:
                return False
            self.write(name, new)
            return True

    def upload(self, path: Path, name: str) -> None:
        with open(path, "rb") as source, writing(self.folder / name) as file:
            shutil.copyfileobj(source, file, COPY_BUFFER)

    def download(self, name: str, path: Path) -> None:
        with self.open(name) as source, writing(path) as file:
            shutil.copyfileobj(source, file, COPY_BUFFER)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        with _folder_errors(self.folder / name):
            return open(self.folder / name, "rb")

    def size(self, name: str) -> int | None:
        path = self.folder / name
        with _folder_errors(path):
            return path.stat().st_size if path.is_file() else None

    def names(self, prefix: str = "") -> list[str]:
        folder = self.folder / prefix
        with contextlib.suppress(FileNotFoundError), _folder_errors(folder):
            found = [path.name for path in folder.iterdir()]
            return sorted(name for name in found if not name.endswith(TEMPORARY) and name[0] != ".")
        return []

    def delete(self, name: str) -> None:
        with _folder_errors(self.folder / name):
            (self.folder / name).unlink(missing_ok=True)

    def clean(self) -> None:
        if self.folder.is_dir():
            remove_partial(self.folder)

    def require_writable(self) -> None:
        # in the nearest folder that exists: one that was made for this and removed again would be
        # missed by another process, which has found it in between
        folder = self.folder
        with disk_errors(self.folder):
            while not (exists(folder) or folder.is_symlink()):
                folder = folder.parent
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"?")
                file.flush()

    def for_ray(self) -> dict[str, Any]:
        return {"storage_path": self.address}


@contextlib.contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    """Turns an error of a folder that cannot be used into one line; a missing file is no fault."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}; fix the folder or its permissions"
        ) from error
