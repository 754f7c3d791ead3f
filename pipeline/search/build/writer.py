"""Writes an index: rows are appended first and counted afterwards, so that a killed process leaves
an index that opens, with its last batch to do.

`INDEX/identity.json` names the folder within, `rows-1`, that holds `embeddings.f16` and
`files.sqlite`. A rebuild fills the next folder beside it; the switch is one new `identity.json`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.weights.folder import user_path
from pipeline.search.identity import (
    DIGITS,
    FIX,
    IDENTITY,
    IndexIdentity,
    read_identity,
    write_identity,
)
from pipeline.search.index import BOXES, EMBEDDINGS, HALF, OBJECTS, REGIONS
from pipeline.search.table import TABLE, File, FileTable, table_errors
from pipeline.storage.files import disk_errors

LOCK = ".lock"
ROWS = re.compile(r"rows-(\d+)")
SAID = {
    "image_digest": "embeds images by",
    "text_space": "has texts of",
    "objects": "finds regions by",
    "embed_dim": "has width",
}


class IndexWriter:
    """An index to be made or continued, used in a `with` block; one process at a time has it.

    Args:
        folder: The index; absent, empty, or an index.
        identity: Of the model that makes its rows.
        rebuild: Whether to make all rows again, beside those that are there.

    Attributes:
        files: The table of files.
        count: Number of rows.

    Raises:
        ConfigError: The folder holds something else, or another process writes it.
        DataError: The index is of another model, or damaged.
        StorageError: The folder cannot be written.
    """

    files: FileTable
    count: int

    def __init__(self, folder: str | Path, identity: IndexIdentity, rebuild: bool = False):
        self.folder, self.identity, self._rebuild = user_path(folder), identity, rebuild
        self._opened: list[IO[bytes]] = []

    def __enter__(self) -> IndexWriter:
        _require_own(self.folder)
        self._lock = _locked(self.folder)
        with ExitStack() as stack:
            stack.callback(self._close)
            self._data = self._choose()
            self.files = FileTable(self._data, write=True)
            self.count = int(self.files.about("rows"))
            dim = self.identity.embed_dim
            widths = {EMBEDDINGS: dim * HALF}
            if self.identity.objects is not None:
                widths |= {OBJECTS: REGIONS * dim * HALF, BOXES: REGIONS * 4 * 4}
            self._opened = [self._open(name, width) for name, width in widths.items()]
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def describe(self, **about: str | None) -> None:
        """Stores values of the index as a whole (see `FileTable.about`)."""
        with table_errors(self.files.path):
            for key, value in about.items():
                self.files.query("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def row_of_content(self, sha256: bytes) -> int | None:
        """The row of an image by its bytes, also of one whose files are gone; None without."""
        for table in ("files", "dead"):
            found = self.files.query(f"SELECT row FROM {table} WHERE sha256 = ? LIMIT 1", (sha256,))
            if found:
                return int(found[0][0])
        return None

    def commit(
        self,
        embeddings: np.ndarray,
        files: Sequence[File],
        objects: tuple[np.ndarray, np.ndarray] | None = None,
        removed: Iterable[str] = (),
    ) -> None:
        """Adds rows and their files, and removes files, all of it or nothing.

        Args:
            embeddings: Unit embeddings [N, D] of the rows from `count` on.
            files: New and changed files, with their rows, new ones or others.
            objects: Regions [N * REGIONS, D] and boxes [N * REGIONS, 4], if the index has any.
            removed: Paths of files that are gone.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        arrays: list[np.ndarray] = [embeddings.astype("<f2")]
        if objects is not None:
            arrays += [objects[0].astype("<f2"), objects[1].astype("<i4")]
        if len(embeddings):
            for file, array in zip(self._opened, arrays, strict=True):
                with disk_errors(Path(file.name)):
                    file.write(array.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        gone = [os.fsencode(path) for path in (*removed, *(file.path for file in files))]
        with table_errors(self.files.path), self.files.transaction() as database:
            left = [
                row
                for path in gone
                for row in database.execute(
                    "DELETE FROM files WHERE path = ? RETURNING row, sha256", (path,)
                ).fetchall()
            ]
            database.executemany(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (os.fsencode(file.path), file.sha256, file.bytes, file.changed_ns, file.date,
                     file.moment, file.part, file.row)
                    for file in files
                ],
            )  # fmt: skip
            database.executemany("DELETE FROM dead WHERE row = ?", [(file.row,) for file in files])
            database.executemany(
                "INSERT OR IGNORE INTO dead SELECT ?1, ?2 "
                "WHERE NOT EXISTS (SELECT 1 FROM files WHERE row = ?1)",
                left,
            )
            database.execute(
                "UPDATE about SET value = ? WHERE key = 'rows'", (self.count + len(embeddings),)
            )
        self.count += len(embeddings)

    def finish(self) -> None:
        """Lets a rebuilt index take the place of the one before."""
        if self._data.name == _current(self.folder):
            return
        with disk_errors(self.folder):
            write_identity(self.folder, self.identity, self._data.name)
        _remove_older(self.folder, self._data.name)

    def _choose(self) -> Path:
        """The folder of rows to write; a new one gets an empty table."""
        if not (self.folder / IDENTITY).is_file():
            data = self.folder / "rows-1"
            self._make(data)
            with disk_errors(self.folder):
                write_identity(self.folder, self.identity, data.name)
            return data
        found, rows = read_identity(self.folder) if not self._rebuild else (None, "")
        if found is not None:
            _remove_older(self.folder, rows)
            self._require_same(found)
            return self.folder / rows
        data = self.folder / f"rows-{_number(_current(self.folder) or '') + 1}"
        if not self._continues(data):
            with disk_errors(data):
                shutil.rmtree(data, ignore_errors=True)
            self._make(data)
        return data

    def _make(self, data: Path) -> None:
        with disk_errors(data):
            data.mkdir(exist_ok=True)
            FileTable.create(data)
            write_identity(data, self.identity, data.name)

    def _continues(self, data: Path) -> bool:
        """Whether a stopped rebuild of the same model left a folder to go on with."""
        try:
            return read_identity(data)[0] == self.identity and (data / TABLE).is_file()
        except DataError:
            return False

    def _require_same(self, found: IndexIdentity) -> None:
        wanted = self.identity
        for name, digits in SAID.items():
            ours, theirs = getattr(wanted, name), getattr(found, name)
            if ours != theirs:
                raise DataError(
                    f"{self.folder}: made with {found.made_with}, which {digits} "
                    f"{str(theirs)[:DIGITS]}; this model, {wanted.made_with}, {digits} "
                    f"{str(ours)[:DIGITS]}; --rebuild makes it again beside the old one, -o names "
                    "another"
                )

    def _open(self, name: str, width: int) -> IO[bytes]:
        """A file of rows, cut to those that are counted."""
        path = self._data / name
        with disk_errors(path):
            path.touch()
            if (size := path.stat().st_size) < self.count * width:
                raise DataError(
                    f"{path}: truncated, it has {size} bytes of {self.count * width}; {FIX}"
                )
            file = open(path, "r+b")  # noqa: SIM115 - closed with the writer
            file.truncate(self.count * width)
            file.seek(0, os.SEEK_END)
        return file

    def _close(self) -> None:
        for file in self._opened:
            file.close()
        if hasattr(self, "files"):
            self.files.close()
        os.close(self._lock)


def _require_own(folder: Path) -> None:
    """Refuses a folder that holds something else than an index.

    Raises:
        ConfigError: It does, or it is a file.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give a folder")
    if not folder.is_dir() or (folder / IDENTITY).is_file():
        return
    others = [path for path in folder.iterdir() if not _is_ours(path.name)]
    if others:
        raise ConfigError(f"{folder}: holds {others[0].name} and no index; give another -o")


def _is_ours(name: str) -> bool:
    return name == LOCK or ROWS.fullmatch(name) is not None


def _locked(folder: Path) -> int:
    """A descriptor that locks an index, until it is closed or its process dies.

    Raises:
        ConfigError: Another process holds the lock.
        StorageError: The folder cannot be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(f"another `kdeov index` writes {folder}; wait for it") from error
    return lock


def _current(folder: Path) -> str | None:
    """Name of the folder of rows; of a damaged index, the first one that is there."""
    try:
        return read_identity(folder)[1]
    except DataError:
        names = sorted((path.name for path in folder.glob("rows-*")), key=_number)
        return names[0] if names else None


def _number(name: str) -> int:
    found = ROWS.fullmatch(name)
    return int(found[1]) if found else 0


def _remove_older(folder: Path, current: str) -> None:
    """Deletes the rows that a rebuilt index has replaced."""
    for path in folder.glob("rows-*"):
        if 0 < _number(path.name) < _number(current):
            shutil.rmtree(path, ignore_errors=True)
