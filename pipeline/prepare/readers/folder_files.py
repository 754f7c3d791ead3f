"""Reads files within a folder, each in few system calls: for thumbnails they take a notable part of
the time.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from kdeov.errors import DataError
from pipeline.artifacts.texts import file_name, is_unicode
from pipeline.prepare.images import UnreadImage, UnusableImage

MAX_BYTES = 1 << 30  # more than an image of `pipeline.prepare.images.MAX_PIXELS` needs
TOO_LARGE = f"larger than {MAX_BYTES:,} bytes"


def read_within(root: Path, name: str) -> bytes:
    """Reads a file.

    Args:
        root: The folder, without links in its path.
        name: Path of the file within the folder. Links are followed within the folder. Accents may
            be composed otherwise (NFC, NFD) than on disk.

    Raises:
        UnusableImage: It is missing, unreadable, or no regular file within the folder.
    """
    if not name:
        raise UnusableImage("has no name")
    if "\0" in name:
        raise UnusableImage("its name holds a null")
    if not is_unicode(name):
        raise UnusableImage("its name is not UTF-8")
    try:
        try:
            return _read_inside(root, name)
        except FileNotFoundError:
            if (spelled := _spelled_on_disk(root, name)) in (None, name):
                raise
        return _read_inside(root, spelled)
    except FileNotFoundError:
        raise UnreadImage("no such file") from None
    except OSError as error:
        raise UnreadImage(f"unreadable ({error.strerror})") from error


def version_within(root: Path, name: str) -> str:
    """A text that changes with the bytes of a file (see `version_of`).

    Args:
        root: The folder.
        name: Path of the file within it, as `read_within` takes it.

    Returns:
        Empty where there is no such file.
    """
    if "\0" in name or not is_unicode(name):
        return ""
    try:
        return version_of(os.stat(f"{root}/{name}"))  # noqa: PTH116 - in a third of the time
    except OSError:
        spelled = _spelled_on_disk(root, name)
    try:
        return "" if spelled is None else version_of((root / spelled).stat())
    except OSError:
        return ""


def version_of(status: os.stat_result) -> str:
    """Size in bytes and time of change in nanoseconds of a file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def refuse_folder(error: OSError) -> NoReturn:
    """For `os.walk`, which else passes over folders that cannot be read.

    Raises:
        DataError: Names the folder.
    """
    raise DataError(f"{error.filename}: {error.strerror}; make the folder readable") from error


def _read_inside(root: Path, name: str) -> bytes:
    outside = "lies outside the folder of images (by .. or a link); give the real folder in prepare"
    # one check of a folder is enough for all of its files (`_lies_in` is cached)
    if not _lies_in(root, name[: name.rfind("/") + 1]):
        raise UnusableImage(outside)
    path = f"{root}/{name}"
    try:
        return _read(path, os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    if not _lies_in(root, name):
        raise UnusableImage(outside)
    return _read(path)


def _spelled_on_disk(root: Path, name: str) -> str | None:
    """The name with its accents composed as on disk, or None where there is no such file."""
    parts = name.split("/")
    if name.isascii() or ".." in parts:
        return None
    folder, spelled = f"{root}", []
    for part in parts:
        if (found := _names(folder).get(file_name(part))) is None:
            return None
        folder = f"{folder}/{found}"
        spelled.append(found)
    return "/".join(spelled)


@lru_cache(maxsize=8)  # a folder may hold a million names
def _names(folder: str) -> dict[str, str]:
    """The names in a folder by their comparable spelling; empty where it cannot be listed."""
    try:
        return {file_name(path.name): path.name for path in Path(folder).iterdir()}
    except OSError:
        return {}


@lru_cache(maxsize=1024)
def _lies_in(root: Path, name: str) -> bool:
    # unlike Path.resolve, realpath accepts cycles of links
    return Path(os.path.realpath(root / name)).is_relative_to(root)


def _read(path: str, flags: int = 0) -> bytes:
    # non-blocking: opening a pipe would wait for ever
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage("unreadable (not a regular file)")
        if status.st_size > MAX_BYTES:
            raise UnusableImage(TOO_LARGE)
        data = os.read(number, status.st_size)
        while len(data) < status.st_size and (more := os.read(number, status.st_size)):
            data += more
        return data
    finally:
        os.close(number)
