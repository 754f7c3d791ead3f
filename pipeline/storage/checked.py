"""Files that another stage or process reads: written with a digest, which is compared then.

A JSON mapping holds the digest of its own values as `digest`. Any other file of a storage begins
with a line `# sha256 DIGEST`, of its bytes and of its place below the folder of the run, so that
one file does not pass for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdeov.errors import DataError
from kdeov.weights.digests import with_digest
from kdeov.weights.digests import without_digest as without_digest
from pipeline.storage.files import json_text, read_json, write_json
from pipeline.storage.storage import Storage

T = TypeVar("T")
HEADER = b"# sha256 %b\n"
HEADER_BYTES = len(HEADER % bytes(64))
PLACE_PARTS = 3  # RUN/checkpoints/step-000000300.pt


def write_checked_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON mapping with its digest, atomically."""
    write_json(path, with_digest(values))


def read_checked_json(path: Path, stage: str | None = None) -> dict[str, Any]:
    """Reads what `write_checked_json` wrote.

    Args:
        path: The file.
        stage: The stage that writes it; None where no stage does.

    Raises:
        DataError: The file is missing, damaged or edited.
    """
    return without_digest(read_json(path, stage), path, fix_of(stage))


def read_record(kind: type[T], path: Path, stage: str | None = None) -> T:
    """Reads the fields of a dataclass that were written by `write_checked_json`.

    Raises:
        DataError: The file is missing, damaged or edited, or has other fields.
    """
    values = read_checked_json(path, stage)
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(f"{path}: of another version ({error}); {fix_of(stage)}") from error


def checked_json(values: Mapping[str, Any]) -> bytes:
    """A JSON mapping with its digest, for `Storage.write`."""
    return json_text(with_digest(values)).encode()


def parse_checked_json(data: bytes, where: str, fix: str) -> dict[str, Any]:
    """The inverse of `checked_json`.

    Args:
        data: All bytes of the file.
        where: Its address, for errors.
        fix: What to do about a damaged file.

    Raises:
        DataError: The file is damaged or edited.
    """
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: damaged ({error}); {fix}") from error
    return without_digest(values, where, fix)


def write_checked(storage: Storage, name: str, data: bytes | memoryview) -> None:
    """Writes a file that is no JSON, with its digest in the first line.

    Raises:
        StorageError: The storage cannot be written.
    """
    storage.write(name, b"".join((_header(storage, name, data), data)))


def read_checked(storage: Storage, name: str, fix: str) -> memoryview:
    """The bytes that were given to `write_checked`.

    Args:
        storage: Where the file lies.
        name: Its name there.
        fix: What to do about a damaged file.

    Raises:
        FileNotFoundError: It is not there.
        DataError: It was damaged or edited, or belongs to another place.
        StorageError: The storage cannot be read.
    """
    data = memoryview(storage.read(name))
    content = data[HEADER_BYTES:]
    if data[:HEADER_BYTES] != _header(storage, name, content):
        raise DataError(f"{storage.where(name)}: damaged, or the file of another place; {fix}")
    return content


def fix_of(stage: str | None) -> str:
    """What to do about a damaged file that a stage writes."""
    return f"run `dvc repro -f {stage}`" if stage else "delete it"


def _header(storage: Storage, name: str, data: bytes | memoryview) -> bytes:
    place = "/".join(storage.where(name).split("/")[-PLACE_PARTS:])
    value = hashlib.sha256(f"{place}\n".encode())
    value.update(data)
    return HEADER % value.hexdigest().encode()
