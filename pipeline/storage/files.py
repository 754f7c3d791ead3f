"""Files that are whole or absent: written under a temporary name, then moved."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from kdeov.errors import DataError, StorageError
from kdeov.weights.digests import digest as digest  # for all of `pipeline`
from kdeov.weights.digests import sha256_file as sha256_file

TEMPORARY = ".partial"
BUFFER = 1 << 20  # bytes; small ones would cost a shard a system call an image


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, or a folder that cannot be written, into one line.

    Raises:
        StorageError: Names the path.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); free space or fix the folder"
        ) from error


@contextlib.contextmanager
def flock(path: Path) -> Iterator[None]:
    """An exclusive lock among all machines that share the folder; the kernel, or the server of the
    folder, releases it when the process dies. The file stays: deleting it would split the lock.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115 - its errors are those of the folder
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be locked ({error.strerror}); mount the folder with file locks"
            ) from error
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends well, and leaves nothing when it does
    not.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    # not the process's number: machines that share a folder may have processes of one number
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb", buffering=BUFFER) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A folder that replaces `path` when the block ends well; until then `path` stays as it was."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    for left in path.parent.glob(f"{path.name}.*{TEMPORARY}"):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Deletes what a killed process left half-written in a folder."""
    for path in folder.glob(f"*{TEMPORARY}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_others(folder: Path, listed: Collection[str], logger: logging.Logger) -> None:
    """Deletes what a folder holds besides the listed names, and logs it. Links are not followed.

    Args:
        folder: Owned by the stage that calls.
        listed: Names of files and folders that stay.
        logger: Of the stage.
    """
    for path in folder.iterdir():
        if path.name not in listed:
            logger.info("deleting %s, which no manifest lists", path)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with writing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that is the same for equal values."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON with sorted keys, two spaces and a final newline."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def existing(path: Path) -> Path:
    """A path, or the nearest folder above it that exists."""
    while not exists(path) and path != path.parent:
        path = path.parent
    return path


def exists(path: Path) -> bool:
    """Whether a path exists; not so where a folder on the way may not be searched."""
    try:
        return path.exists()
    except OSError:
        return False


def read_json(path: Path, stage: str | None = None) -> Any:
    """Reads JSON.

    Args:
        path: The file.
        stage: The stage that writes this kind of file; None where no stage does.

    Raises:
        DataError: The file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fix = f"run `dvc repro {stage}`" if stage else "check the path"
        raise DataError(f"{path}: {error.strerror}; {fix}") from error
    except (ValueError, RecursionError) as error:
        fix = f"run `dvc repro -f {stage}`" if stage else "delete it"
        raise DataError(f"{path}: damaged ({error}); {fix}") from error


class HashedFile(io.RawIOBase):
    """A file that is hashed while it is read. A seek forwards reads the bytes that it skips.

    Args:
        file: At its beginning.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._value, self._hashed = file, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("seek from the start only")
        if offset > self._hashed:
            self._file.seek(self._hashed)
            while (left := offset - self._hashed) and self.read(min(left, BUFFER)):
                pass
        return self._file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data = self._file.read(size)
        self._value.update(data[max(0, self._hashed - start) :])
        self._hashed = max(self._hashed, start + len(data))
        return data

    def digest(self) -> str:
        """The sha256 of all bytes."""
        self._file.seek(self._hashed)
        while self.read(BUFFER):
            pass
        return self._value.hexdigest()
