"""`mobile.json`: the files for devices of a folder, and how each was made and compared."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from kdeov.weights.digests import read_description, write_description

logger = logging.getLogger(__name__)

RECORD = "mobile.json"
FORMAT = 1
NOT_RUN = "converted, not run"
FIX = "export again with `kdeov export --to`"


@dataclass(frozen=True)
class Entry:
    """One target of `mobile.json`.

    Attributes:
        converter: `package` and `version`, and the version of `torch`.
        input: `name`, `shape`, `dtype`, `layout` and `color` of the pixels.
        output: `name`, `shape` and `dtype` of the unit embedding.
        precision: Of the weights in the files.
        parity: Lowest cosine with PyTorch and largest difference; `NOT_RUN` where the files cannot
            run on the machine that wrote them.
        files: Their names; the sha256 of each is under `files` of the record.
        bytes: Of all its files.
    """

    converter: Mapping[str, str]
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    precision: str
    parity: Mapping[str, float] | str
    files: tuple[str, ...]
    bytes: int


def read_entries(folder: Path, weights: str) -> tuple[dict[str, Entry], set[str]]:
    """The targets of a folder, if they are of the same weights.

    Args:
        folder: Where files for devices may lie already.
        weights: See `FixedImage.weights`.

    Returns:
        Entries by target, none where the weights differ or the record is damaged; and the names of
        all recorded files.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}, set()
    try:
        values = read_description(path, FIX)
        entries = {
            name: Entry(**{**entry, "files": tuple(entry["files"])})
            for name, entry in values["targets"].items()
        }
        names = {file for entry in entries.values() for file in entry.files}
        for name in names:
            (folder / name).resolve().relative_to(folder.resolve())  # never outside
    except (DataError, LookupError, TypeError, ValueError, AttributeError) as error:
        logger.warning("%s: not read, its other targets are to be exported again: %s", path, error)
        return {}, set()
    return (entries if values.get("weights") == weights else {}), names


def write_record(
    folder: Path, weights: str, preprocessing: Mapping[str, Any], entries: Mapping[str, Entry]
) -> None:
    """Writes `mobile.json` with its own digest and the sha256 of every file.

    Args:
        folder: Holds the files of all entries.
        weights: See `FixedImage.weights`.
        preprocessing: How pixels come from an image.
        entries: By target.
    """
    values = {
        "format": FORMAT,
        "weights": weights,
        "preprocessing": dict(preprocessing),
        "targets": {name: asdict(entry) for name, entry in sorted(entries.items())},
    }
    names = [name for entry in entries.values() for name in entry.files]
    write_description(folder / RECORD, values, names)


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copies files of a folder, and the folders that they lie in."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Removes files of a folder, and the folders in it that become empty."""
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            while (path := path.parent) != folder:
                path.rmdir()
