"""What of a checkout travels with a job: its code, which Ray packs and unpacks on every node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import PathSpec

from kdeov.errors import KdeovError

LIMIT = 100_000_000  # bytes; Ray keeps packages in the memory of the head node
NAMED = 5  # largest entries that the refusal names
IGNORE_FILES = (".gitignore", ".rayignore")


def check_package(root: Path, limit: int = LIMIT) -> int:
    """Bytes of what would travel.

    Raises:
        KdeovError: More than `limit`; names the largest entries.
    """
    sizes: dict[str, int] = {}
    for path in packaged(root):
        entry = "/".join(path.relative_to(root).parts[:2])
        sizes[entry] = sizes.get(entry, 0) + path.stat().st_size
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda entry: -sizes[entry])[:NAMED]
        named = ", ".join(f"{entry} ({sizes[entry] / 1e6:,.1f} MB)" for entry in largest)
        raise KdeovError(
            f"{root}: {total / 1e6:,.0f} MB would travel with the job, at most "
            f"{limit / 1e6:,.0f} may; the largest: {named}; list what the code does not need in "
            ".rayignore"
        )
    return total


def packaged(root: Path) -> Iterator[Path]:
    """The files that Ray packs: all that no `.gitignore` and no `.rayignore` on the way lists."""
    yield from _packaged(root, [])


def _packaged(folder: Path, ignored: list[tuple[Path, PathSpec]]) -> Iterator[Path]:
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text().splitlines()
            ignored = [*ignored, (folder, PathSpec.from_lines("gitwildmatch", lines))]
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            # as Ray does: without the slash that git adds to folders
            if any(spec.match_file(str(path.relative_to(base))) for base, spec in ignored):
                continue
            if entry.is_dir():  # through links, as Ray does
                yield from _packaged(path, ignored)
            elif entry.is_file():
                yield path
