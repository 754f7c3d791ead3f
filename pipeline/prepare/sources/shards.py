"""The source `shards`: webdataset tars in the format of img2dataset.

A sample is `KEY.jpg` (or .jpeg, .png, .webp) with its caption in `KEY.txt`, or in `KEY.json` under
`caption` or `captions`. The tars are indexed once; workers read members by offset.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shards import KEY
from pipeline.config.source_params import ShardsParams
from pipeline.prepare.images import UnusableImage, decode_image
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.naming import hash_split
from pipeline.prepare.readers.tar_members import plain_members, refused

MEMBER_KINDS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 1, "json": 2}
NO_SPANS = (-1, -1) * 3  # offset and size of image, text and description


def shards(path: Path, options: ShardsParams, seed: int, max_image_side: int | None) -> Source:
    """Indexes the tars in `path`, or in its folders `train`, `val` and `test`.

    A split that has no folder of its own takes its share of `train`, or of the whole, by a hash of
    keys.

    Args:
        path: The folder.
        options: The shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        DataError: There are no tars, or one is damaged or holds other than regular files.
    """
    official = [s for s in SPLITS if (path / s).is_dir()] if (path / "train").is_dir() else []
    val, test = (0.0 if s in official else getattr(options, s) for s in ("val", "test"))
    inputs = {split: Members() for split in SPLITS}
    for part in official or [""]:
        tars = sorted((path / part).glob("*.tar"))
        if not tars:
            raise DataError(f"{path / part}: no .tar in this folder; check prepare.path")
        keys: set[str] = set()
        for tar in tars:
            name = str(tar.relative_to(path))
            for key, places in _index(tar):
                split = part if part in ("val", "test") else hash_split(key, seed, val, test)
                problem = "its key occurs twice" if key in keys else _problem(places)
                if problem:
                    inputs[split].rejected.append(Rejected(f"{name}/{key}", problem))
                else:
                    inputs[split].append(name, key, places)
                keys.add(key)
    return Source(inputs, MemberReader(path, max_image_side))


@dataclass(frozen=True)
class Member:
    """A sample by its position in a tar.

    Attributes:
        tar: Path of the tar within the folder.
        key: Key of the sample.
        places: Offset and size of image, text and description; -1 for what is missing.
    """

    tar: str
    key: str
    places: Sequence[int]


class Members:
    """The samples of a split: memory is a key and six integers each.

    Attributes:
        rejected: Samples that indexing rejected.
    """

    def __init__(self) -> None:
        self.rejected: list[Rejected] = []
        self._keys: list[str] = []
        self._tars: dict[str, int] = {}  # to the number of their first sample
        self._places = array("q")

    def append(self, tar: str, key: str, places: Sequence[int]) -> None:
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
                places = self._places[number * width : (number + 1) * width]
                yield Member(tar, self._keys[number], places)
        yield from self.rejected


@dataclass(frozen=True)
class MemberReader:
    """Makes samples of members of tars.

    Attributes:
        root: The folder of the tars.
        max_image_side: See `pipeline.prepare.images.decode_image`.
    """

    root: Path
    max_image_side: int | None

    def __call__(self, member: Member) -> Sample | Rejected:
        name = f"{member.tar}/{member.key}"
        try:
            data, text, description = _read(f"{self.root}/{member.tar}", member.places)
            captions = clean_captions(_captions(text, description))
            image = decode_image(data, self.max_image_side)
        except UnusableImage as error:
            return Rejected(name, str(error))
        return Sample(member.key, image.jpeg, captions, name, grid=image.grid)


def _index(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Keys and member positions of a tar, in order; a second file of a kind gets size -2.

    Raises:
        DataError: The tar is damaged, or a member is no regular file beside the others.
    """
    key, places = "", list(NO_SPANS)
    for member, offset, size in plain_members(path):
        stem, _, suffix = member.partition(".")
        if not KEY.match(stem):
            raise refused(str(path), member)
        if stem != key:
            if key:
                yield key, places
            key, places = stem, list(NO_SPANS)
        kind = MEMBER_KINDS.get(suffix.lower())
        if kind is not None:
            again = places[2 * kind] >= 0
            places[2 * kind : 2 * kind + 2] = offset, -2 if again else size
    if key:
        yield key, places


def _problem(places: list[int]) -> str | None:
    sizes = places[1::2]
    if -2 in sizes:
        return "two files of one kind"
    if sizes[0] < 0:
        return "no image"
    return None


def _read(path: str, places: Sequence[int]) -> list[bytes]:
    """Reads image, text and description, which are adjacent, in one system call."""
    spans = [(at, at + size) for at, size in zip(places[::2], places[1::2], strict=True)]
    start = min(at for at, _ in spans if at >= 0)
    number = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(number, max(end for _, end in spans) - start, start)
    finally:
        os.close(number)
    return [data[at - start : end - start] if at >= 0 else b"" for at, end in spans]


def _captions(text: bytes, description: bytes) -> list[str]:
    try:
        if text:
            return [text.decode("utf-8-sig")]
        values = json.loads(description or b"{}")
        found = values.get("caption") or values.get("captions") or []
    except UnicodeDecodeError:
        raise UnusableImage("a caption that is not UTF-8") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise UnusableImage(f"a description that is not a JSON mapping ({error})") from error
    captions = [found] if isinstance(found, str) else found
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise UnusableImage("a caption that is not a string")
    return captions
