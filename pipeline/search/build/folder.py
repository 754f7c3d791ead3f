"""Brings an index up to date with a folder: new and changed images are embedded, moved ones keep
their rows, and those that are gone leave the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, DataError
from pipeline.search.build.read import Item
from pipeline.search.build.scan import Scan
from pipeline.search.build.update import Counts, Updater, empty_regions
from pipeline.search.build.writer import IndexWriter
from pipeline.search.index import FOLDER
from pipeline.search.model import SearchModel


def index_folder(
    root: Path,
    scan: Scan,
    writer: IndexWriter,
    model: SearchModel,
    progress: Callable[[int], Callable[[int], object]] = lambda _total: lambda _done: None,
) -> Counts:
    """Updates an index of a folder.

    Args:
        root: The folder, resolved.
        scan: What it holds.
        writer: Of the index, entered.
        model: Whose identity the index has; it is opened if there is an image to embed.
        progress: Called with the number of files to do; what it returns, with those that are done.

    Raises:
        ConfigError: The index is of another folder.
        StorageError: The index cannot be written.
    """
    take_source(writer, FOLDER, root, model.address)
    known = {
        os.fsdecode(path): (size, changed)
        for path, size, changed in writer.files.query("SELECT path, bytes, changed_ns FROM files")
    }
    items = [
        Item(found.path, root / found.path, found.bytes, found.changed_ns)
        for found in scan.files.values()
        if known.get(found.path) != (found.bytes, found.changed_ns)
    ]
    counts = Counts(errors=list(scan.errors))
    if items:
        Updater(writer, model, counts, progress(len(items))).add(items)
    gone = [path for path in known if path not in scan.files and not scan.is_unread(path)]
    remove(writer, [*gone, *(path for path in counts.failed if path in known)])
    counts.gone = len(gone)
    count_files(writer, counts)
    return counts


def require_images(scan: Scan, root: Path) -> None:
    """Refuses a folder without images, such as one that is not mounted.

    Raises:
        DataError: It holds none; the index stays as it was.
    """
    if not scan.files:
        raise DataError(f"{root}: holds no image file; the index stays as it was")


def take_source(writer: IndexWriter, kind: str, root: Path, model: str | None) -> None:
    """Lets an index be of a source; one whose folder is gone was moved.

    Raises:
        ConfigError: The index is of another source that is there.
    """
    before, old = writer.files.about("kind"), writer.files.about("root")
    other = old is not None and (kind, str(root)) != (before, old)
    if other and (kind != before or Path(old).exists()):
        raise ConfigError(f"{writer.folder}: an index of {old}; give another -o for {root}")
    writer.describe(kind=kind, root=str(root), model=model)


def remove(writer: IndexWriter, paths: list[str]) -> None:
    """Removes files of an index; their rows are kept, for files that come back."""
    if paths:
        none = np.empty((0, writer.identity.embed_dim), np.float32)
        writer.commit(none, [], empty_regions(writer), removed=paths)


def count_files(writer: IndexWriter, counts: Counts) -> None:
    """Counts files and dead rows."""
    counts.files = len(writer.files)
    counts.dead = int(writer.files.query("SELECT count(*) FROM dead")[0][0])
