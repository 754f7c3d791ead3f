"""A folder in a bucket: its objects as files in folders, and their bytes.

A bucket has no folders: names with slashes stand for them. All objects are listed once, and once
more when the source is listed, as nothing else shows that a bucket changes meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from kdeov.errors import DataError
from pipeline.console import printable
from pipeline.prepare.images import UnreadImage, UnusableImage
from pipeline.prepare.readers.folder_files import MAX_BYTES, TOO_LARGE
from pipeline.storage.bucket import BucketStorage, StoredObject
from pipeline.storage.storage import Storage


@dataclass(frozen=True)
class BucketFolder:
    """A folder of a listed bucket.

    Attributes:
        storage: The bucket with the prefix that was listed.
        place: The folder below that prefix; empty for the prefix itself.
        folders: The folders in it, by name.
        files: The objects in it, by name.
        cache: Keeps what takes long to read; None keeps nothing. Of the listed prefix alone.
    """

    storage: BucketStorage
    place: str = ""
    folders: dict[str, BucketFolder] = field(default_factory=dict)
    files: dict[str, StoredObject] = field(default_factory=dict)
    cache: Storage | None = None

    def __str__(self) -> str:
        return self.storage.where(self.place).rstrip("/")

    def __truediv__(self, name: str) -> BucketFolder:
        """The folder of a name, which is empty where there is none; `.` is the folder itself."""
        if name == ".":
            return self
        return self.folders.get(name, BucketFolder(self.storage, self.within(name)))

    @property
    def name(self) -> str:
        """The last part of its address."""
        return str(self).rpartition("/")[2]

    def within(self, name: str) -> str:
        """The place of something in the folder, below the listed prefix."""
        return f"{self.place}/{name}" if self.place else name

    def walk(self) -> Iterator[tuple[str, StoredObject]]:
        """Place and object of everything in the folder and below, in order of folders, files first;
        what is hidden is passed over.
        """
        for name in sorted(self.files):
            if not name.startswith("."):
                yield self.within(name), self.files[name]
        for name in sorted(self.folders):
            if not name.startswith("."):
                yield from self.folders[name].walk()

    def read(self, name: str) -> bytes:
        """The bytes of a file in the folder.

        Raises:
            DataError: It is missing.
        """
        try:
            return self.storage.read(self.within(name))
        except FileNotFoundError as error:
            raise DataError(f"{self}/{name}: no such object; check prepare") from error

    def read_json(self, name: str, option: str) -> dict[str, Any]:
        """A JSON mapping of the folder (see `pipeline.artifacts.tables.read_json_table`).

        Raises:
            DataError: It is missing, or no JSON mapping in UTF-8.
        """
        try:
            values = json.loads(self.read(name).decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self}/{name}: no JSON ({error}); check {option}") from error
        if not isinstance(values, dict):
            raise DataError(f"{self}/{name}: no JSON mapping; check {option}")
        return values


@contextmanager
def listed_bucket(storage: BucketStorage, cache: Storage | None = None) -> Iterator[BucketFolder]:
    """Lists a bucket, and once more when the block ends, where both must agree.

    Args:
        storage: The bucket with a prefix.
        cache: See `BucketFolder`.

    Raises:
        DataError: There is no object, or the listings differ; names the first that does.
        StorageError: The bucket cannot be read.
    """
    objects = storage.objects()
    if not objects:
        raise DataError(
            f"{storage.address}: holds no object below it; check prepare.path, which names a folder"
        )
    yield _tree(BucketFolder(storage, cache=cache), objects)
    for before, after in zip_longest(objects, storage.objects()):
        if before != after:
            some = min(entry.name for entry in (before, after) if entry is not None)
            raise DataError(
                f"{storage.where(printable(some))}: two listings of the bucket differ; wait until "
                "nothing writes there, and run the stage again"
            )


def _tree(top: BucketFolder, objects: list[StoredObject]) -> BucketFolder:
    for entry in objects:
        *folders, name = entry.name.split("/")
        here = top
        for folder in folders:
            below = BucketFolder(top.storage, here.within(folder))
            here = here.folders.setdefault(folder, below)
        here.files[name] = entry
    return top


def read_object(storage: BucketStorage, name: str) -> bytes:
    """The bytes of an image.

    Raises:
        UnusableImage: It has vanished, or is too large.
        StorageError: The bucket cannot be read.
    """
    try:
        data = storage.read(name)
    except FileNotFoundError:
        raise UnreadImage("no such object") from None
    if len(data) > MAX_BYTES:
        raise UnusableImage(TOO_LARGE)
    return data
