"""The part of a checkout that a job uploads: its code, which Ray unpacks on every node. A copy in
the storage, equal for equal code, is what another head runs the job from.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pathspec import PathSpec

from kdeov.errors import ConfigError, DataError
from pipeline.storage.files import sha256_file
from pipeline.storage.storage import Storage

MAX_PACKAGE_BYTES = 100_000_000  # Ray keeps packages in the memory of the head node
NUM_ENTRIES_SHOWN = 5  # largest entries, in the error
IGNORE_FILES = (".gitignore", ".rayignore")
DATE = (1980, 1, 1, 0, 0, 0)  # of all members: equal code makes equal bytes


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


def pack(root: Path, path: Path) -> Path:
    """Writes the package of a checkout as a zip file, with the same bytes for the same code."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(packaged(root)):
            member = zipfile.ZipInfo(str(file.relative_to(root)), DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, file.read_bytes())
    return path


def unpack(storage: Storage, sha256: str, folder: Path) -> Path:
    """Downloads a package and unpacks it.

    Args:
        storage: Holds the package.
        sha256: Digest of the package.
        folder: An empty folder.

    Returns:
        Folder of the code.

    Raises:
        DataError: The package is not in the storage, or damaged.
    """
    name, path, code = package_name(sha256), folder / "package.zip", folder / "code"
    try:
        storage.download(name, path)
    except FileNotFoundError as error:
        raise DataError(
            f"{storage.where(name)}: missing; run `dvc repro` in the checkout of the job"
        ) from error
    if sha256_file(path) != sha256:
        raise DataError(f"{storage.where(name)}: damaged; delete it, and run `dvc repro` again")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(code)  # leaves no member outside of the folder
    return code


def package_name(sha256: str) -> str:
    """Name of a package in the storage."""
    return f"packages/{sha256}.zip"


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
