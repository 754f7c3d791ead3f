"""A table of embeddings on disk that grows in parts, so that a stopped run loses one part at most.

Parts lie in `NAME.parts/` beside the table until it is whole. A row is known by the path, size and
time of its image, so a later run embeds what is new or changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.weights.digests import sha256_file, with_digest, without_digest
from pipeline.inference.stream import Embedded
from pipeline.storage.files import disk_errors, writing

PART_NAME = r"\d{6}\.npy"
PART_ROWS = 512  # rows that a killed run may lose
MARK = "kdeov embed"
FIX = "delete it, and the images are embedded again"


@dataclass(frozen=True)
class Key:
    """An image as it was when it was embedded: path, bytes, and nanoseconds of its last change."""

    path: str
    bytes: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Key:
        """The key of a file; sizes of -1 for one that is gone."""
        try:
            status = path.stat()
        except OSError:
            return cls(str(path), -1, -1)
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def to_list(self) -> list[Any]:
        """The fields, in JSON types."""
        return [self.path, self.bytes, self.changed]


class EmbeddingTable:
    """A `.npy` file with a JSON list of its images, or a `.parquet` file; used in a `with` block,
    which keeps the parts if it ends with an error.

    Args:
        path: The file.
        model: Digest of what embeds; rows of another model are not kept.
        embed_dim: Numbers of a row, D.
        force: Whether to replace a file of other origin.

    Raises:
        ConfigError: The file is of other origin, or parquet is not installed.
    """

    def __init__(self, path: Path, model: str, embed_dim: int, force: bool = False):
        self.path, self._model, self._dim = path, model, embed_dim
        self.other_model = False
        self._parts = path.with_name(f"{path.name}.parts")
        self._rows: dict[Key, tuple[np.ndarray, int]] = {}
        self._new: list[tuple[Key, np.ndarray]] = []
        self._keys: dict[str, Key] = {}
        if path.suffix == ".parquet":
            _pyarrow()
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; give the name of a file")
        if not force:
            self._require_own()

    def __enter__(self) -> EmbeddingTable:
        self._lock = _locked(self._parts, self.path)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, self._lock)
            for part in self._own_parts():
                self._read(part)
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._new:
                self._write_part()
            with contextlib.suppress(OSError):
                self._parts.rmdir()  # where nothing is left to go on with
        finally:
            os.close(self._lock)

    def has(self, path: Path) -> bool:
        """Whether the table has a row of an image as it is now."""
        key = self._keys[str(path)] = Key.of(path)
        return key in self._rows

    def add(self, item: Embedded) -> None:
        """Adds a row for an image that `has` was asked for."""
        self._new.append((self._keys[str(item.path)], item.embedding))
        if len(self._new) >= PART_ROWS:
            self._write_part()

    def finish(self, paths: list[Path]) -> tuple[int, int]:
        """Writes the table whole and deletes its parts.

        Args:
            paths: The images of the rows, in order; those without an embedding are left out.

        Returns:
            Number of rows, and of known rows that are left out; without a row, nothing is written.
        """
        if self._new:
            self._write_part()
        keys = [key for path in paths if (key := self._keys[str(path)]) in self._rows]
        if keys:
            rows = np.empty((len(keys), self._dim), np.float32)
            for number, key in enumerate(keys):
                block, row = self._rows[key]
                rows[number] = block[row]
            self._save(keys, rows)
        for part in self._own_parts():
            part.unlink()
            _beside(part).unlink(missing_ok=True)
        images = {key.path for key in keys}
        return len(keys), len({key.path for key in self._rows} - images)

    def _own_parts(self) -> list[Path]:
        """Parts in their order; other files of the folder are somebody else's."""
        found = self._parts.glob("*.npy")
        return sorted(part for part in found if re.fullmatch(PART_NAME, part.name))

    def _save(self, keys: list[Key], rows: np.ndarray) -> None:
        if self.path.suffix == ".parquet":
            with writing(self.path) as file:
                _write_parquet(file, keys, rows, self._model)
            return
        beside = _beside(self.path)
        beside.unlink(missing_ok=True)  # never beside rows of other images
        with writing(self.path) as file:
            np.save(file, rows, allow_pickle=False)
        self._describe(self.path, keys)

    def _write_part(self) -> None:
        # names that sort by time; a part of a killed run may be there
        number = max((int(part.stem) for part in self._own_parts()), default=-1) + 1
        part = self._parts / f"{number:06d}.npy"
        keys, rows = [key for key, _ in self._new], np.stack([row for _, row in self._new])
        with writing(part) as file:
            np.save(file, rows, allow_pickle=False)
        self._describe(part, keys)
        self._rows.update({key: (rows, row) for row, key in enumerate(keys)})
        self._new = []

    def _describe(self, path: Path, keys: list[Key]) -> None:
        values = {
            "made_by": MARK,
            "model": self._model,
            "sha256": sha256_file(path),
            "images": [key.to_list() for key in keys],
        }
        with writing(_beside(path)) as file:
            file.write(json.dumps(with_digest(values), ensure_ascii=True).encode())

    def _require_own(self) -> None:
        """Reads a table that is there.

        Raises:
            ConfigError: It is not this command's, or damaged, or the list beside it is not.
        """
        parquet = self.path.suffix == ".parquet"
        there = self.path if parquet or self.path.exists() else _beside(self.path)
        if not there.exists():
            return
        try:
            made = _read_parquet(self.path) if parquet else _read_npy(self.path)
        except (OSError, ValueError, LookupError, AttributeError, DataError) as error:
            raise ConfigError(
                f"{there} exists and was not written by this command, or is damaged; give another "
                "-o, or --force"
            ) from error
        self._keep(*made)

    def _read(self, part: Path) -> None:
        try:
            self._keep(*_read_npy(part))
        except (OSError, ValueError, DataError):
            part.unlink()  # the process was killed between a part and its description

    def _keep(self, model: str, keys: list[Key], rows: np.ndarray) -> None:
        if model != self._model:
            self.other_model = True
        elif rows.shape == (len(keys), self._dim):
            self._rows.update({key: (rows, row) for row, key in enumerate(keys)})


def _locked(folder: Path, path: Path) -> int:
    """A descriptor that locks the folder of a table's parts, until it is closed.

    Raises:
        ConfigError: Another process holds the lock.
        StorageError: The folder cannot be made.
    """
    while True:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(f"another `kdeov embed` writes {path}; wait for it") from error
        except FileNotFoundError:  # the other process has just ended and removed it
            pass
        os.close(lock)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_npy(path: Path) -> tuple[str, list[Key], np.ndarray]:
    beside = _beside(path)
    values = without_digest(json.loads(beside.read_text(encoding="utf-8")), beside, FIX)
    if values.get("made_by") != MARK or values["sha256"] != sha256_file(path):
        raise DataError(f"{path}: not the file that {beside} describes; {FIX}")
    rows = np.load(path, allow_pickle=False)
    return values["model"], [Key(*key) for key in values["images"]], rows


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "a .parquet file needs pyarrow: pip install 'kdeov[parquet]', or give a .npy file"
        ) from error
    return pyarrow


def _write_parquet(file: Any, keys: list[Key], rows: np.ndarray, model: str) -> None:
    """Columns `image` and `embedding`, and those that tell whether an image changed."""
    pa = _pyarrow()
    flat = pa.array(rows.reshape(-1), pa.float32())
    keys = [replace(key, path=_text(key.path)) for key in keys]
    columns = {
        "image": pa.array([key.path for key in keys], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
        "bytes": pa.array([key.bytes for key in keys], pa.int64()),
        "changed_ns": pa.array([key.changed for key in keys], pa.int64()),
    }
    about = {"made_by": MARK, "model": model, "sha256": _sha256(keys, rows)}
    table = pa.table(columns).replace_schema_metadata(about)
    pa.parquet.write_table(table, file)


def _text(path: str) -> str:
    """A path as Unicode; bytes that are none stand as escapes, and such an image is made again."""
    return path.encode("utf-8", "backslashreplace").decode()


def _read_parquet(path: Path) -> tuple[str, list[Key], np.ndarray]:
    pa = _pyarrow()
    try:
        table = pa.parquet.read_table(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: {first_line(error)}") from error
    about = table.schema.metadata or {}
    if about.get(b"made_by") != MARK.encode():
        raise DataError(f"{path}: not written by {MARK}")
    column = table.column("embedding").combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    names = ("image", "bytes", "changed_ns")
    keys = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    model, found = about[b"model"].decode(), [Key(*key) for key in keys]
    if about.get(b"sha256") not in (None, _sha256(found, rows).encode()):  # older versions: None
        raise DataError(f"{path}: its content is not that which was written; {FIX}")
    return model, found, rows


def _sha256(keys: list[Key], rows: np.ndarray) -> str:
    """A digest of what a `.parquet` file says, which has no file beside it."""
    named = json.dumps([key.to_list() for key in keys]).encode()
    return hashlib.sha256(named + np.ascontiguousarray(rows, "<f4").tobytes()).hexdigest()
