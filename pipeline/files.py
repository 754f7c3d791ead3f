"""Files that are whole or absent: written under a temporary name, then moved."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kdeov.errors import KdeovError

TEMPORARY = ".partial"
BUFFER = 1 << 20  # bytes; small ones would cost a shard a system call a picture


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tells of a full disk, or a folder that cannot be written, in one line.

    Raises:
        KdeovError: Names the path.
    """
    try:
        yield
    except OSError as error:
        raise KdeovError(
            f"{path}: cannot be written ({error.strerror or error}); free space or mend the folder"
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends well, and leaves nothing when it does
    not.

    Raises:
        KdeovError: The disk is full or the folder cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
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


def read_json(path: Path, made_by: str) -> Any:
    """Reads JSON.

    Args:
        path: The file.
        made_by: The stage to run where it is missing or damaged.

    Raises:
        KdeovError: The file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise KdeovError(f"{path}: {error.strerror}; run `dvc repro {made_by}`") from error
    except ValueError as error:
        raise KdeovError(f"{path}: damaged ({error}); run `dvc repro -f {made_by}`") from error


def sha256_file(path: Path) -> str:
    """The digest of a file's bytes."""
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
