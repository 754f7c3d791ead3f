"""The table of an index's files, in SQLite: which image has which row."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from kdeov.errors import DataError, StorageError, first_line
from pipeline.search.identity import FIX

TABLE = "files.sqlite"
VERSION = 1
BUSY_S = 10.0
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE parts (id INTEGER PRIMARY KEY, name TEXT UNIQUE, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE files (
    path BLOB PRIMARY KEY, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, date TEXT, moment TEXT, part INTEGER, row INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_sha256 ON files (sha256);
CREATE INDEX files_row ON files (row);
CREATE TABLE dead (row INTEGER PRIMARY KEY, sha256 BLOB NOT NULL);
CREATE INDEX dead_sha256 ON dead (sha256);
"""
FULL, LOCKED = ("disk is full", "disk I/O", "readonly", "unable to open"), ("locked", "busy")


@dataclass(frozen=True)
class File:
    """A file of an index.

    Attributes:
        path: Within the indexed folder, with slashes; a key for an image of shards.
        sha256: Of its bytes, 32 of them.
        bytes: Its size.
        changed_ns: Nanoseconds of its last change; 0 for an image of shards.
        date: Of its EXIF data, ISO 8601 without a zone; None where there is none.
        moment: `date`, or else the local time of its last change; None where there is neither.
        row: Of its embedding.
        part: Number of the shard that holds it; None for a file.
    """

    path: str
    sha256: bytes
    bytes: int
    changed_ns: int
    date: str | None
    moment: str | None
    row: int
    part: int | None = None


@dataclass(frozen=True)
class Named:
    """What a hit shows of a file: its row, path and date."""

    row: int
    path: str
    date: str | None


class FileTable:
    """Reads the table; several threads may.

    Args:
        folder: Of the rows; it holds the table.
        write: Whether to open it for `pipeline.search.writer` too.

    Raises:
        DataError: The table is missing or damaged.
        StorageError: It cannot be read.
    """

    def __init__(self, folder: Path, write: bool = False):
        self.path = folder / TABLE
        self._lock = threading.RLock()
        if not self.path.is_file():
            raise DataError(f"{self.path}: missing; {FIX}")
        self._connection = self._open(write)
        if self.about("version") != VERSION:
            raise DataError(f"{self.path}: of another version of kdeov; {FIX}")

    @classmethod
    def create(cls, folder: Path) -> None:
        """Makes an empty table, whole or not at all.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        path, partial = folder / TABLE, folder / f"{TABLE}.partial"
        with table_errors(path):
            partial.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(partial)) as connection, connection:
                connection.executescript(SCHEMA)
                connection.executemany(
                    "INSERT INTO about VALUES (?, ?)", [("version", VERSION), ("rows", 0)]
                )
            partial.replace(path)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._connection.close()

    def about(self, key: str) -> Any:
        """A value of the index as a whole, such as its number of rows; None where it has none."""
        found = self.query("SELECT value FROM about WHERE key = ?", (key,))
        return found[0][0] if found else None

    def __len__(self) -> int:
        return int(self.query("SELECT count(*) FROM files")[0][0])

    def named(self, rows: Sequence[int], where: tuple[str, list[Any]]) -> dict[int, list[Named]]:
        """Files of rows that fit a condition, by row; several may share one, in order of paths."""
        marks = ",".join("?" * len(rows))
        found = self.query(
            f"SELECT row, path, date FROM files WHERE row IN ({marks}) AND ({where[0]}) "
            "ORDER BY path",
            (*rows, *where[1]),
        )
        files: dict[int, list[Named]] = {}
        for row, path, date in found:
            files.setdefault(row, []).append(Named(row, os.fsdecode(path), date))
        return files

    def rows(self, where: tuple[str, list[Any]]) -> np.ndarray:
        """Sorted numbers of the rows of files that fit a condition, int64 [N]."""
        return self._numbers(
            f"SELECT DISTINCT row FROM files WHERE {where[0]} ORDER BY row",
            where[1],
        )

    def dead_rows(self) -> np.ndarray:
        """Sorted numbers of the rows of which no file is left, int64 [N]."""
        return self._numbers("SELECT row FROM dead ORDER BY row")

    def row_of(self, path: str) -> int | None:
        """The row of a file by its path; None where the index has none."""
        found = self.query("SELECT row FROM files WHERE path = ?", (os.fsencode(path),))
        return int(found[0][0]) if found else None

    def is_unchanged(self, path: str, file: Path) -> bool:
        """Whether a file has the size and the time that the table has of a path."""
        found = self.query(
            "SELECT bytes, changed_ns FROM files WHERE path = ?", (os.fsencode(path),)
        )
        try:
            status = file.stat()
        except OSError:
            return False
        return found == [(status.st_size, status.st_mtime_ns)]

    def paths_of_part(self, part: int) -> list[str]:
        """Keys of the images of a shard."""
        found = self.query("SELECT path FROM files WHERE part = ?", (part,))
        return [os.fsdecode(path) for (path,) in found]

    def query(self, text: str, values: Iterable[Any] = ()) -> list[Any]:
        """All rows of an SQL query.

        Raises:
            DataError: The table is damaged.
            StorageError: It cannot be read.
        """
        with self._lock, table_errors(self.path):
            return self._connection.execute(text, tuple(values)).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database for changes that happen all or not at all."""
        with self._lock, self._connection:  # which commits at the end, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _numbers(self, text: str, values: Iterable[Any] = ()) -> np.ndarray:
        return np.fromiter((row for (row,) in self.query(text, values)), np.int64)

    def _open(self, write: bool) -> sqlite3.Connection:
        modes = (
            ("rw",) if write else ("ro", "rw")
        )  # a killed writer leaves what a reader rolls back
        for mode in modes:
            address = f"file:{quote(os.fsencode(self.path.absolute()))}?mode={mode}"
            with table_errors(self.path):
                connection = sqlite3.connect(
                    address, BUSY_S, uri=True, check_same_thread=False, isolation_level=None
                )
                try:
                    connection.execute("SELECT count(*) FROM about").fetchone()
                    return connection
                except sqlite3.OperationalError:
                    connection.close()
                    if mode == modes[-1]:
                        raise
        raise AssertionError("one of the modes returns or raises")


@contextlib.contextmanager
def table_errors(path: Path) -> Iterator[None]:
    """Turns errors of SQLite into one line.

    Raises:
        StorageError: The disk is full, the folder cannot be written, or another process writes.
        DataError: The table is damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        reason = first_line(error)
        if any(word in reason for word in LOCKED):
            raise StorageError(f"{path}: another process writes it; wait for it") from error
        if any(word in reason for word in FULL):
            raise StorageError(
                f"{path}: cannot be read or written ({reason}); free space or fix the folder"
            ) from error
        raise DataError(f"{path}: damaged ({reason}); {FIX}") from error
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); free space or fix the folder"
        ) from error
