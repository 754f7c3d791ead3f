"""The source `shards`: webdataset tars in the format of img2dataset.

A sample is `KEY.jpg` (or another suffix of an image) with its caption in `KEY.txt`, or in
`KEY.json` under `caption` or `captions`. A key ends at the first dot. The tars are indexed once
(`readers.sample_index`); workers read members by offset.
"""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.texts import is_visible
from pipeline.config.source_params import ShardsParams
from pipeline.prepare.images import UnusableImage, decode_image
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.readers.captions import clean_captions
from pipeline.prepare.readers.naming import hash_split, safe_key
from pipeline.prepare.readers.sample_index import NO_SPANS, Ignored, index_samples
from pipeline.prepare.readers.split_folders import folders_in, split_folders

logger = logging.getLogger(__name__)

COMPRESSED = re.compile(r".*\.(tar\.[a-z0-9]+|tgz|tbz2?|txz)\Z", re.IGNORECASE)


def shards(path: Path, options: ShardsParams, seed: int, max_image_side: int | None) -> Source:
    """Indexes the tars in `path`, or in its folders of splits.

    A split that has no folder of its own takes its share of `train`, or of the whole, by a hash of
    keys.

    Args:
        path: The folder.
        options: The shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        DataError: There are no tars, or one is compressed, damaged, not sorted, or holds links or
            paths.
    """
    parts = _parts(path)
    val, test = (0.0 if s in parts else getattr(options, s) for s in ("val", "test"))
    inputs = {split: Members() for split in SPLITS}
    ignored = Ignored()
    for official, part in parts.items():
        keys: set[str] = set()
        for tar in _tars(path / part):
            name = str(tar.relative_to(path))
            for entry in index_samples(tar, ignored):
                split = hash_split(entry.name, seed, val, test) if official == "train" else official
                problem = entry.problem or ("its key occurs twice" if entry.name in keys else None)
                if problem:
                    inputs[split].rejected.append(Rejected(f"{name}/{entry.name}", problem))
                else:
                    inputs[split].append(name, entry.name, entry.places)
                keys.add(entry.name)
    if ignored.counts:
        logger.warning("%s: ignoring members of unknown suffixes: %s", path, ignored)
    return Source(inputs, MemberReader(path, max_image_side))


def _parts(path: Path) -> dict[str, str]:
    """The folder of the tars of each split that has one; `train` alone, with `.`, where all tars
    lie in `path`.
    """
    folders = split_folders(path) if path.is_dir() else {}
    found = {split: folder for split, folder in folders.items() if _tars(path / folder)}
    loose = _tars(path)
    if not found and not loose:
        raise DataError(f"{path}: no .tar in this folder; check prepare.path")
    read = list(found.values()) or ["."]
    if found and (loose or "train" not in found):
        where = f"{loose[0].name} lies beside them" if loose else "none is `train`"
        raise DataError(
            f"{path}: {', '.join(read)} hold the tars of splits, but {where}; move all tars into "
            "folders of splits"
        )
    others = [name for name in folders_in(path) if name not in read and _tars(path / name)]
    if others:
        logger.warning("%s: ignoring tars in folders that are no splits: %s", path, others)
    return found or {"train": "."}


def _tars(folder: Path) -> list[Path]:
    """The tars of a folder, in order; none where there is no such folder.

    Raises:
        DataError: Some are compressed.
    """
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in names:
        if COMPRESSED.match(path.name):
            raise DataError(
                f"{path}: a compressed tar, whose members cannot be read by their place; unpack it "
                "to a .tar (`gunzip`), or move it elsewhere"
            )
    return [p for p in names if p.suffix.lower() == ".tar" and not p.name.startswith(".")]


@dataclass(frozen=True)
class Member:
    """A sample by its position in a tar.

    Attributes:
        tar: Path of the tar within the folder.
        key: Key of the sample, as the tar spells it.
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
        return Sample(safe_key(member.key), image.jpeg, captions, name, grid=image.grid)


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
