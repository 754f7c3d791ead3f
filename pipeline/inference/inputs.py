"""Images as the command line names them: files, folders, globs, a list on standard input."""

from __future__ import annotations

import codecs
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.runtime.images import FORMATS, HEIF_SUFFIXES
from kdeov.weights.folder import user_path

STDIN = "-"
HEATMAP, BOXES = ".heatmap.png", ".boxes.png"  # endings of what `locate` and `detect` draw


def image_paths(arguments: Sequence[str]) -> Iterator[Path | DataError]:
    """The images of arguments, in order and each once.

    Args:
        arguments: Files, which may have any name; folders, searched with their sub-folders for
            names of image files, without what `kdeov locate` and `kdeov detect` drew; globs, where
            `**` stands for folders; `-` for paths on standard input, one a line, or separated by
            NUL as `find -print0` writes them.

    Yields:
        A path, or the error of an argument that names no image; the others go on.

    Raises:
        ConfigError: No argument, or standard input is a terminal.
    """
    if not arguments:
        raise ConfigError("no image is named; give files, folders, globs or - for standard input")
    seen: set[Path] = set()
    for argument in arguments:
        for found in _listed() if argument == STDIN else _of(argument):
            if isinstance(found, Path):
                if found in seen:
                    continue
                seen.add(found)
            yield found


def _of(argument: str) -> Iterator[Path | DataError]:
    if not argument:  # Path would take it for the current folder
        yield DataError("an empty name names no image")
        return
    path = user_path(argument)
    try:
        if path.is_dir():
            yield from _in_folder(path)
        elif path.exists():
            yield path
        elif glob.has_magic(argument):
            yield from _matches(str(path))
        else:
            yield DataError(f"{path}: there is no such file or folder")
    except (OSError, ValueError) as error:  # a name that no file can have
        yield DataError(f"{argument!r:.200}: no path of a file ({first_line(error)})")


def _in_folder(folder: Path) -> Iterator[Path | DataError]:
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.endswith((HEATMAP, BOXES)):
                continue
            if Path(name).suffix.lower() in image_suffixes():
                count += 1
                yield Path(place) / name
    if not count:
        yield DataError(f"{folder}: holds no image file")


def _matches(pattern: str) -> Iterator[Path | DataError]:
    count = 0
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 (absolute ones too)
        if (path := Path(name)).is_file():
            count += 1
            yield path
    if not count:
        yield DataError(f"{pattern}: matches no file")


def _listed() -> Iterator[Path | DataError]:
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError("- reads paths from standard input; pipe a list into the command")
    content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        yield DataError("standard input lists no image")
    for name in names:
        try:
            path = user_path(name)
            yield path if path.is_file() else DataError(f"{path}: there is no such file")
        except (OSError, ValueError) as error:  # a name that no file can have
            yield DataError(f"{name!r:.200}: no path of a file ({first_line(error)})")


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of files of the formats that are read, in lower case, with the dot."""
    known = {end for end, name in Image.registered_extensions().items() if name in FORMATS}
    return frozenset(known.union(HEIF_SUFFIXES))
