"""The image files of a folder, with their sizes and times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdeov.errors import ConfigError, DataError, one_line
from pipeline.inference.inputs import BOXES, HEATMAP, image_suffixes


@dataclass(frozen=True)
class Found:
    """A file: its path within the folder, with slashes, its size and nanoseconds of its change."""

    path: str
    bytes: int
    changed_ns: int


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        files: By path within the folder, in order.
        errors: Of files and folders that cannot be read.
        unread: Paths of folders that cannot be read: what they hold is unknown.
    """

    files: dict[str, Found] = field(default_factory=dict)
    errors: list[DataError] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def is_unread(self, path: str) -> bool:
        """Whether a file lies in a folder that cannot be read."""
        return any(path.startswith(f"{folder}/") for folder in self.unread)


def scan_folder(root: Path) -> Scan:
    """Finds the image files of a folder and its sub-folders, by their names; hidden ones and what
    `kdeov locate` and `kdeov detect` drew are left out. Links to folders are not followed, and a
    link to a file must stay within the folder.

    Args:
        root: The folder, resolved.

    Raises:
        ConfigError: It is no folder, or cannot be read.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no folder; name the folder of the images, or of shards")
    scan, suffixes = Scan(), image_suffixes()
    for entry in _entries(root, "", scan):
        path = entry.path
        name = os.path.relpath(path, root) if os.sep != "/" else path[len(str(root)) :].lstrip("/")
        dot = entry.name.rfind(".")
        if dot < 1 or entry.name[dot:].lower() not in suffixes:
            continue
        if entry.name.endswith((HEATMAP, BOXES)):
            continue
        try:
            if entry.is_symlink() and not Path(path).resolve().is_relative_to(root):
                scan.errors.append(
                    DataError(f"{one_line(path)}: a link that leads out of {root}; copy the image")
                )
                continue
            if not entry.is_file():
                continue
            status = entry.stat()
        except OSError as error:
            scan.errors.append(DataError(f"{one_line(path)}: {error.strerror or error}"))
            continue
        scan.files[name] = Found(name, status.st_size, status.st_mtime_ns)
    return scan


def _entries(folder: Path | str, inside: str, scan: Scan) -> Iterator[os.DirEntry[str]]:
    """Entries that are no folders, in order, with those of sub-folders."""
    try:
        with os.scandir(folder) as opened:
            entries = sorted(opened, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or error
        if not inside:
            raise ConfigError(
                f"{folder}: cannot be read ({reason}); fix its permissions"
            ) from error
        scan.unread.append(inside)
        scan.errors.append(
            DataError(
                f"{one_line(str(folder))}: cannot be read ({reason}); its images stay as they were"
            )
        )
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, f"{inside}/{entry.name}".lstrip("/"), scan)
        else:
            yield entry
