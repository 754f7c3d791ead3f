"""The source `shards`: webdataset tars in the format of img2dataset, in a folder or a bucket.

A sample is `KEY.jpg` (or another suffix of an image) with its caption in `KEY.txt`, or in
`KEY.json` under `caption` or `captions`. A key ends at the first dot. The tars are indexed once
(`readers.tars.sample_index`); workers read members by offset.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.config.source_params import ShardsParams
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.folder_files import version_within
from pipeline.prepare.readers.naming import hash_split
from pipeline.prepare.readers.remote.bucket_folder import BucketFolder
from pipeline.prepare.readers.remote.read_ahead import in_order
from pipeline.prepare.readers.split_folders import Folder, folders_in, split_folders, splits_of
from pipeline.prepare.readers.tar_members import members_of, plain_members
from pipeline.prepare.readers.tars.index_cache import TarIndex, kept_index
from pipeline.prepare.readers.tars.sample_index import Ignored, Indexed, index_samples
from pipeline.prepare.readers.tars.tar_samples import MemberReader, Members, Tar

logger = logging.getLogger(__name__)

COMPRESSED = re.compile(r".*\.(tar\.[a-z0-9]+|tgz|tbz2?|txz)\Z", re.IGNORECASE)


def shards(path: Folder, options: ShardsParams, seed: int, max_image_side: int | None) -> Source:
    """Indexes the tars in `path`, or in its folders of splits.

    Tars of a bucket are read once for the index, several at a time, and the index is kept.

    A split that has no folder of its own takes its share of `train`, or of the whole, by a hash of
    keys.

    Args:
        path: The folder, here or in a bucket.
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
        for tar, entries in _indexed(path, _tars(path, part), ignored):
            for entry in entries:
                split = hash_split(entry.name, seed, val, test) if official == "train" else official
                problem = entry.problem or ("its key occurs twice" if entry.name in keys else None)
                if problem:
                    inputs[split].rejected.append(Rejected(f"{tar.name}/{entry.name}", problem))
                else:
                    inputs[split].append(tar, entry.name, entry.places)
                keys.add(entry.name)
    if ignored.counts:
        logger.warning("%s: ignoring members of unknown suffixes: %s", path, ignored)
    root = path if isinstance(path, Path) else path.storage
    return Source(inputs, MemberReader(root, max_image_side))


def _indexed(
    path: Folder, tars: list[Tar], ignored: Ignored
) -> Iterator[tuple[Tar, Iterable[Indexed]]]:
    """The samples of each tar, in order."""
    if isinstance(path, Path):
        for tar in tars:
            where = path / tar.name
            yield tar, index_samples(plain_members(where), str(where), ignored)
        return
    for tar, (entries, others) in in_order(partial(_index_remote, path), tars):
        ignored.update(others)
        yield tar, entries


def _index_remote(path: BucketFolder, tar: Tar) -> TarIndex:
    where = path.storage.where(tar.name)

    def make() -> TarIndex:
        ignored = Ignored()
        with path.storage.open(tar.name) as file:
            return list(index_samples(members_of(file, where), where, ignored)), ignored

    def unchanged() -> bool:
        found = path.storage.stored(tar.name)
        return found is not None and found.version == tar.version

    return kept_index(path.cache, where, tar.version, make, unchanged)


def _parts(path: Folder) -> dict[str, str]:
    """The folder of the tars of each split that has one; `train` alone, with `.`, where all tars
    lie in `path`.
    """
    exists = path.is_dir() if isinstance(path, Path) else True
    folders = split_folders(path) if exists else {}
    found = {split: folder for split, folder in folders.items() if _tars(path, folder)}
    loose = _tars(path, ".")
    if not found and not loose:
        raise DataError(f"{path}: no .tar in this folder; check prepare.path")
    read = list(found.values()) or ["."]
    if found and (loose or "train" not in found):
        where = f"{loose[0].name} lies beside them" if loose else "none is `train`"
        raise DataError(
            f"{path}: {', '.join(read)} hold the tars of splits, but {where}; move all tars into "
            "folders of splits"
        )
    stems = (tar.name.rpartition(".")[0] for tar in loose)
    if len(named := set(splits_of(path, stems).values())) > 1:
        raise DataError(
            f"{path}: its tars are named after the splits {', '.join(sorted(named))}; move those "
            "of each split into a folder of that name"
        )
    others = [name for name in folders_in(path) if name not in read and _tars(path, name)]
    if others:
        logger.warning("%s: ignoring tars in folders that are no splits: %s", path, others)
    return found or {"train": "."}


def _tars(path: Folder, part: str) -> list[Tar]:
    """The tars of a folder in `path`, in order; none where there is no such folder.

    Raises:
        DataError: Some are compressed.
    """
    folder = path / part
    if isinstance(folder, Path):
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    else:
        names = sorted(folder.files)
    tars = []
    for name in names:
        if COMPRESSED.match(name):
            raise DataError(
                f"{folder}/{name}: a compressed tar, whose members cannot be read by their "
                "place; unpack it to a .tar (`gunzip`), or move it elsewhere"
            )
        if name.lower().endswith(".tar") and not name.startswith("."):
            place = name if part == "." else f"{part}/{name}"
            tars.append(Tar(place, _version(folder, name)))
    return tars


def _version(folder: Folder, name: str) -> str:
    if isinstance(folder, Path):
        return version_within(folder, name)
    return folder.files[name].version
