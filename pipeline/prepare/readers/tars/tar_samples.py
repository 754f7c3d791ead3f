"""Samples of tars by their position, read in place from a folder or a bucket."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from pipeline.artifacts.texts import is_visible
from pipeline.prepare.images import UnreadImage, UnusableImage, decode_image
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.folder_files import MAX_BYTES, TOO_LARGE, version_of
from pipeline.prepare.readers.naming import safe_key
from pipeline.prepare.readers.tars.sample_index import NO_SPANS
from pipeline.storage.bucket import BucketStorage
from pipeline.storage.remote_file import RemoteFile

MAX_GAP = 1 << 20  # bytes between samples that share a request
CHANGED, VANISHED = "its tar has changed since it was listed", "its tar has vanished"


@dataclass(frozen=True)
class Tar:
    """A tar of the source.

    Attributes:
        name: Its path within the folder.
        version: Changes with its bytes (see `ImageFile.version`).
    """

    name: str
    version: str


@dataclass(frozen=True)
class Member:
    """A sample by its position in a tar.

    Attributes:
        tar: Path of the tar within the folder.
        key: Key of the sample, as the tar spells it.
        places: Offset and size of image, text and description; -1 for what is missing.
        version: Of the tar.
    """

    tar: str
    key: str
    places: tuple[int, ...]
    version: str


class Members:
    """The samples of a split: memory is a key and six integers each.

    Attributes:
        rejected: Samples that indexing rejected.
    """

    def __init__(self) -> None:
        self.rejected: list[Rejected] = []
        self._keys: list[str] = []
        self._tars: dict[Tar, int] = {}  # to the number of their first sample
        self._places = array("q")

    def append(self, tar: Tar, key: str, places: Sequence[int]) -> None:
        """Adds a sample; samples of a tar must follow each other."""
        self._tars.setdefault(tar, len(self._keys))
        self._keys.append(key)
        self._places.extend(places)

    def __len__(self) -> int:
        return len(self._keys) + len(self.rejected)

    def __iter__(self) -> Iterator[Member | Rejected]:
        width = len(NO_SPANS)
        starts = [*self._tars.values(), len(self._keys)]
        for tar, start, stop in zip(self._tars, starts, starts[1:], strict=False):
            for number in range(start, stop):
                places = tuple(self._places[number * width : (number + 1) * width])
                yield Member(tar.name, self._keys[number], places, tar.version)
        yield from self.rejected


@dataclass(frozen=True)
class MemberReader:
    """Makes samples of members of tars.

    Attributes:
        root: The folder of the tars, or a bucket.
        max_image_side: See `pipeline.prepare.images.decode_image`.
    """

    root: Path | BucketStorage
    max_image_side: int | None

    def __call__(self, member: Member) -> Sample | Rejected:
        name = f"{member.tar}/{member.key}"
        try:
            data, text, description = self._read(member)
            captions = clean_captions(captions_of(text, description))
            image = decode_image(data, self.max_image_side)
        except UnusableImage as error:
            return Rejected(name, str(error), isinstance(error, UnreadImage))
        return Sample(safe_key(member.key), image.jpeg, captions, name, grid=image.grid)

    def _read(self, member: Member) -> list[bytes]:
        """Reads image, text and description, which are adjacent, at once."""
        spans = [(at, at + size) for at, size in zip(*[iter(member.places)] * 2, strict=True)]
        start, stop = min(at for at, _ in spans if at >= 0), max(end for _, end in spans)
        if stop - start > MAX_BYTES:
            raise UnusableImage(TOO_LARGE)
        if isinstance(self.root, Path):
            data = _read_here(f"{self.root}/{member.tar}", member.version, start, stop)
        else:
            data = _read_there(self.root, member.tar, member.version, start, stop)
        return [data[at - start : end - start] if at >= 0 else b"" for at, end in spans]


def _read_here(path: str, version: str, start: int, stop: int) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            if version_of(os.fstat(number)) != version:
                raise UnreadImage(CHANGED)
            return os.pread(number, stop - start, start)
        finally:
            os.close(number)
    except FileNotFoundError:
        raise UnreadImage(VANISHED) from None
    except OSError as error:
        raise UnreadImage(f"its tar cannot be read ({error.strerror})") from error


def _read_there(storage: BucketStorage, name: str, version: str, start: int, stop: int) -> bytes:
    tar = _opened(storage, name, version)
    if isinstance(tar, str):
        raise UnreadImage(tar)
    try:
        return tar.read(start, stop)
    except FileNotFoundError:
        raise UnreadImage(VANISHED) from None


class _RemoteTar:
    """A tar of a bucket. Samples that follow each other share the blocks of a request; one that
    lies apart, as those of validation do, is read alone.

    Args:
        storage: The bucket.
        name: Of the tar.
        size: Bytes of the tar.
    """

    def __init__(self, storage: BucketStorage, name: str, size: int) -> None:
        self._blocks = storage.open(name, size)
        self._ranges = storage.open_ranges(name, size)
        self._end = 0  # of the last sample

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`.

        Raises:
            FileNotFoundError: The tar has vanished.
            StorageError: The bucket cannot be read.
        """
        near = 0 <= start - self._end <= MAX_GAP
        self._end = stop
        file: IO[bytes] | RemoteFile = self._blocks if near else self._ranges
        file.seek(start)
        return file.read(stop - start) or b""


@lru_cache(maxsize=1)  # samples of a tar follow each other
def _opened(storage: BucketStorage, name: str, version: str) -> _RemoteTar | str:
    """A tar to read from, or why it cannot be used."""
    found = storage.stored(name)
    if found is None:
        return VANISHED
    return _RemoteTar(storage, name, found.size) if found.version == version else CHANGED


def captions_of(text: bytes, description: bytes) -> list[str]:
    """The text, or where nothing of it is visible, the captions of the description."""
    try:
        if is_visible(caption := text.decode("utf-8-sig")):
            return [caption]
        values = json.loads(description or b"{}")
        found = [values.get(key) for key in ("caption", "captions")]
    except UnicodeDecodeError:
        raise UnusableImage("a caption that is not UTF-8") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise UnusableImage(f"a description that is not a JSON mapping ({error})") from error
    for value in found:
        captions = [value] if isinstance(value, str) else value or []
        if not isinstance(captions, list):
            raise UnusableImage("a caption that is not a string")
        captions = [caption for caption in captions if caption is not None]
        if not all(isinstance(caption, str) for caption in captions):
            raise UnusableImage("a caption that is not a string")
        if any(map(is_visible, captions)):
            return captions
    return []
