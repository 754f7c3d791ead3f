"""The part of a checkout that a job uploads: its code, which Ray unpacks on every node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import PathSpec

from kdeov.errors import ConfigError

MAX_PACKAGE_BYTES = 100_000_000  # Ray keeps packages in the memory of the head node
NUM_ENTRIES_SHOWN = 5  # largest entries, in the error
IGNORE_FILES = (".gitignore", ".rayignore")


def check_package(root: Path, limit: int = MAX_PACKAGE_BYTES) -> int:
    """Size in bytes of the package.

    Raises:
        ConfigError: It exceeds `limit`; names the largest entries.
    """
    sizes: dict[str, int] = {}
    for path in packaged(root):
        entry = "/".join(path.relative_to(root).parts[:2])
        sizes[entry] = sizes.get(entry, 0) + path.stat().st_size
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda entry: -sizes[entry])[:NUM_ENTRIES_SHOWN]
        named = ", ".join(f"{entry} ({sizes[entry] / 1e6:,.1f} MB)" for entry in largest)
        raise ConfigError(
            f"{root}: {total / 1e6:,.0f} MB would be uploaded with the job, at most "
            f"{limit / 1e6:,.0f} may; the largest: {named}; list what the code does not need in "
            ".rayignore"
        )
    return total


def packaged(root: Path) -> Iterator[Path]:
    """The files that Ray packs: those that no `.gitignore` or `.rayignore` above them lists."""
    yield from _packaged(root, [])


def _packaged(folder: Path, ignored: list[tuple[Path, PathSpec]]) -> Iterator[Path]:
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            ignored = [*ignored, (folder, PathSpec.from_lines("gitwildmatch", lines))]
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            # as Ray does: without the slash that git adds to folders
            if any(spec.match_file(str(path.relative_to(base))) for base, spec in ignored):
                continue
            if entry.is_dir():  # follows links, as Ray does
                yield from _packaged(path, ignored)
            elif entry.is_file():
                yield path
