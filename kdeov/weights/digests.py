"""Digests of saved files: written with them, and compared when they are read.

A JSON mapping holds the digest of its own values as `digest`. A file that is no JSON has the sha256
of its bytes in such a mapping beside it. On CPUs with SHA instructions, sha256 is twice as fast as
BLAKE2b.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

DIGEST, FILES = "digest", "files"


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_digest(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of JSON types with its own digest as the last entry.

    Raises:
        ConfigError: The name of that entry is taken.
    """
    if DIGEST in values:
        raise ConfigError(f"the name {DIGEST!r} is taken by the digest of a file; choose another")
    plain = json.loads(json.dumps(values))  # keys as they will be read, tuples as lists
    return {**plain, DIGEST: digest(plain)}


def without_digest(values: Any, where: object, fix: str) -> dict[str, Any]:
    """The inverse of `with_digest`.

    Args:
        values: Parsed JSON.
        where: The file, for errors.
        fix: What to do about a damaged file.

    Raises:
        DataError: The digest is missing or another one: the file was damaged or edited.
    """
    if not isinstance(values, dict) or DIGEST not in values:
        raise DataError(f"{where}: damaged ({DIGEST!r}), or of a version without digests; {fix}")
    rest = {key: value for key, value in values.items() if key != DIGEST}
    if values[DIGEST] != digest(rest):
        raise DataError(f"{where}: damaged or edited after it was written; {fix}")
    return rest


def require_sha256(path: Path, sha256: object, by: Path, fix: str) -> None:
    """Compares a file's bytes with its digest.

    Args:
        path: The file.
        sha256: Of its bytes when it was written.
        by: The file that says so.
        fix: What to do about a damaged file.

    Raises:
        DataError: The file is missing, or was damaged, edited or replaced.
    """
    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {fix}") from error
    if found != sha256:
        raise DataError(
            f"{path}: damaged or edited, its sha256 is {found} and {by} says {sha256}; {fix}"
        )


def write_description(path: Path, values: Mapping[str, Any], files: Iterable[str]) -> None:
    """Writes the JSON file that describes a folder: `values`, its own digest, and as `files` the
    digests of other files.

    Args:
        path: The JSON file.
        values: What it says.
        files: Names of the other files of its folder, which exist.
    """
    digests = {name: sha256_file(path.parent / name) for name in sorted(files)}
    text = json.dumps(with_digest({**values, FILES: digests}), indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_description(path: Path, fix: str) -> dict[str, Any]:
    """Reads what `write_description` wrote, and compares the files of the folder with it.

    A file of an older version, which has no digests, is returned with a warning.

    Args:
        path: The JSON file.
        fix: What to do about a damaged file.

    Raises:
        DataError: A file is missing, damaged, edited or replaced; the message names it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {fix}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); {fix}") from error
    if isinstance(values, dict) and not {DIGEST, FILES} & values.keys():
        logger.warning("%s: saved without digests; damage to its folder does not show", path)
        return values
    values = without_digest(values, path, fix)
    for name, sha256 in values.pop(FILES, {}).items():
        require_sha256(path.parent / name, sha256, path, fix)
    return values
