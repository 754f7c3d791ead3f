"""Images that are rows of Parquet files, read a row group at a time.

A worker holds one row group: the rows of a shard follow each other, so a group is read about once
for each split that has rows in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifacts.texts import class_name
from pipeline.prepare.images import UnreadImage, UnusableImage, decode_image
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.folder_files import MAX_BYTES, TOO_LARGE, version_of
from pipeline.storage.bucket import BucketStorage

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

CHANGED, VANISHED = "its file has changed since it was listed", "its file has vanished"
Root = Path | BucketStorage


@dataclass(frozen=True)
class Columns:
    """Names of columns; None where there is none.

    Attributes:
        image: Bytes of files.
        image_bytes: The same as Parquet names them: `image.bytes` of a struct.
        caption: Texts, or lists of texts.
        label: Names or numbers of classes.
    """

    image: str
    image_bytes: str
    caption: str | None
    label: str | None

    @property
    def read(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.image_bytes, self.caption, self.label) if name is not None]


@dataclass(frozen=True)
class ParquetRow:
    """An image by its place.

    Attributes:
        key: Key of its sample.
        file: Path of the file within the folder.
        number: Number of the row in the file.
        group: Row group.
        row: Number of the row in its group.
        version: Of the file (see `ImageFile.version`).
    """

    key: str
    file: str
    number: int
    group: int
    row: int
    version: str


@dataclass(frozen=True)
class FileRows:
    """The rows of a file that belong to a split.

    Attributes:
        file: Path of the file within the folder.
        version: Of the file.
        prefix: Of the keys of its rows.
        ends: Number of the row after the last of each row group.
        chosen: Numbers of the rows, rising.
    """

    file: str
    version: str
    prefix: str
    ends: np.ndarray
    chosen: np.ndarray

    def __iter__(self) -> Iterator[ParquetRow]:
        groups = np.searchsorted(self.ends, self.chosen, "right")
        firsts = np.concatenate([[0], self.ends])[groups]
        for number, group, first in zip(self.chosen, groups, firsts, strict=True):
            key, place = f"{self.prefix}-{number:07d}", (int(group), int(number - first))
            yield ParquetRow(key, self.file, int(number), *place, self.version)


class ParquetRows:
    """The rows of a split, in the order of files; memory is eight bytes a row."""

    def __init__(self) -> None:
        self.files: list[FileRows] = []

    def __len__(self) -> int:
        return sum(len(rows.chosen) for rows in self.files)

    def __iter__(self) -> Iterator[ParquetRow]:
        for rows in self.files:
            yield from rows


@dataclass(frozen=True)
class RowGroupReader:
    """Makes samples of rows.

    Attributes:
        root: The folder of the files, or a bucket.
        columns: Names of columns.
        names: Class names by number, where labels are numbers; None where they are names.
        classes: Numbers of the classes that are stored, by name.
        prompts: Templates of captions, where captions are made of class names.
        max_image_side: See `pipeline.prepare.images.decode_image`.
    """

    root: Root
    columns: Columns
    names: tuple[str, ...] | None
    classes: dict[str, int]
    prompts: tuple[str, ...]
    max_image_side: int | None

    def __call__(self, item: ParquetRow) -> Sample | Rejected:
        name, columns = f"{item.file}/{item.number}", self.columns
        try:
            group = _row_group(self.root, item.file, item.version, item.group, tuple(columns.read))
            if isinstance(group, UnusableImage):
                raise group.with_traceback(None)
            label = None
            if columns.label is not None:
                label = self._class_of(_cell(group, columns.label, item.row))
            captions = [prompt.format(label) for prompt in self.prompts]
            if columns.caption is not None:
                captions = clean_captions(_texts(_cell(group, columns.caption, item.row)))
            data = _bytes(_cell(group, columns.image, item.row))
            image = decode_image(data, self.max_image_side)
        except UnusableImage as error:
            return Rejected(name, str(error), isinstance(error, UnreadImage))
        number = None if label is None else self.classes[label]
        return Sample(item.key, image.jpeg, captions, name, number, grid=image.grid)

    def _class_of(self, value: Any) -> str:
        if self.names is not None and value is not None:
            if not 0 <= value < len(self.names):
                raise UnusableImage(f"label {value}, but there are {len(self.names)} classes")
            return self.names[value]
        if not (name := class_name(value or "")):
            raise UnusableImage("no label")
        return name


def _cell(group: Table, column: str, row: int) -> Any:
    try:
        return group.column(column)[row].as_py()
    except UnicodeDecodeError:
        raise UnusableImage(f"a text in column {column!r} that is not UTF-8") from None


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for text in value if text is not None]
    return [] if value is None else [value]


def _bytes(cell: Any) -> bytes:
    data = cell["bytes"] if isinstance(cell, dict) else cell
    if data is None:
        raise UnusableImage("no bytes in its cell; export the images themselves, not their paths")
    if len(data) > MAX_BYTES:
        raise UnusableImage(TOO_LARGE)
    return data


@lru_cache(maxsize=1)
def _row_group(
    root: Root, file: str, version: str, group: int, columns: tuple[str, ...]
) -> Table | UnusableImage:
    """Some columns of a row group, or why they cannot be used."""
    import pyarrow  # takes long to import, and only this needs it

    try:
        return _opened(root, file, version).read_row_group(group, list(columns))
    except UnreadImage as error:
        return error
    except FileNotFoundError:
        return UnreadImage(VANISHED)
    except (pyarrow.ArrowException, OSError) as error:
        # the system gives its errors a number, which damaged bytes do not have
        passing = getattr(error, "errno", None) or isinstance(error, pyarrow.ArrowMemoryError)
        kind = UnreadImage if passing else UnusableImage
        return kind(f"its row group cannot be read ({' '.join(str(error).split())})")


@lru_cache(maxsize=1)
def _opened(root: Root, file: str, version: str) -> ParquetFile:
    if parquet_version(root, file) != version:
        raise UnreadImage(CHANGED)
    return open_parquet(root, file)


def parquet_version(root: Root, file: str) -> str:
    """A text that changes with the bytes of a file.

    Args:
        root: The folder, or a bucket.
        file: Its path there.

    Raises:
        FileNotFoundError: It is missing.
        StorageError: The bucket cannot be read.
    """
    if isinstance(root, Path):
        return version_of((root / file).stat())
    if (stored := root.stored(file)) is None:
        raise FileNotFoundError(root.where(file))
    return stored.version


def open_parquet(root: Root, file: str) -> ParquetFile:
    """A file with its footer read.

    Args:
        root: The folder, or a bucket.
        file: Its path there.

    Raises:
        FileNotFoundError: It is missing.
        pyarrow.ArrowException: It is no Parquet file.
        StorageError: The bucket cannot be read.
    """
    from pyarrow import PythonFile
    from pyarrow.parquet import ParquetFile

    source: Any = root / file if isinstance(root, Path) else PythonFile(root.open(file), mode="r")
    return ParquetFile(source, pre_buffer=True)
