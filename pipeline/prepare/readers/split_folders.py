"""Folders that stand for splits, by their names in any case (`Training`, `valid`, `test_set`), and
the level at which folders stand for classes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from kdeov.errors import DataError
from pipeline.console import printable
from pipeline.prepare.formats import READABLE_SUFFIXES
from pipeline.prepare.readers.remote.bucket_folder import BucketFolder

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5
Folder = Path | BucketFolder

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test", "holdout": "test",
}  # fmt: skip
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # between words, as in trainA
FILLERS = {"", "set", "data", "dataset", "images", "imgs", "split", "folder", "dir"}
IMAGES = {"image", "images", "img", "imgs", "jpegimages"}
LABELS = {
    "label", "labels", "mask", "masks", "annotation", "annotations", "bbox", "bboxes", "gt",
    "groundtruth", "segmentation", "segmentationclass", "segmentationobject",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that a folder is named after, or None."""
    split, others = _words(name)
    return None if others else split


def split_folders(path: Folder) -> dict[str, str]:
    """The folder of each split that has one: `train` and `test`, or `own_train` and `own_test`.

    Raises:
        DataError: Two folders are named after one split, or splits are those of several data sets.
    """
    found: dict[str, str] = {}
    for name, split in splits_of(path, folders_in(path)).items():
        if (other := found.setdefault(split, name)) != name and split_of(name):
            raise DataError(
                f"{path}: {other} and {name} are both named after the split {split}; merge or "
                "rename one"
            )
    return found


def splits_of(where: object, names: Iterable[str]) -> dict[str, str]:
    """The split of each name that is one of a split: `train` and `test`, or `own_train` and
    `own_test` where no name is plain.

    Args:
        where: What holds the names, for errors.
        names: Of folders, or of files without their endings.

    Raises:
        DataError: Splits of several data sets, such as `trainA`, `testA`, `trainB` and `testB`.
    """
    groups: dict[frozenset[str], dict[str, str]] = {frozenset(): {}}  # by the other words of names
    for name in names:
        split, others = _words(name)
        if split is not None:
            groups.setdefault(others, {})[name] = split
    plain = groups.pop(frozenset())
    affixed = [found for found in groups.values() if len(set(found.values())) > 1]
    if plain or not affixed:
        return plain
    if len(affixed) > 1:
        some = "; ".join(", ".join(map(printable, found)) for found in affixed[:NUM_EXAMPLES])
        raise DataError(
            f"{where}: names are those of splits of {len(affixed)} data sets ({some}); set "
            "prepare.path to a folder that holds one of them"
        )
    return affixed[0]


def _words(name: str) -> tuple[str | None, frozenset[str]]:
    """The split that occurs in the name of a folder, if just one does, and the other words."""
    parted = CAMEL.sub(" ", name).casefold()
    words = frozenset(re.split(r"[\W\d_]+", parted)) - FILLERS
    named = {word for word in words if _split(word)}
    if len(named) != 1:
        return None, words
    return _split(*named), words - named


def _split(word: str) -> str | None:
    joined = (SPLIT_NAMES.get(word.removesuffix(filler)) for filler in FILLERS)
    return next(filter(None, joined), None)


def folders_in(path: Folder) -> list[str]:
    """Names of the folders in a folder, in order; those that begin with a dot are ignored."""
    if isinstance(path, BucketFolder):
        return sorted(name for name in path.folders if not name.startswith("."))
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_levels(path: Folder) -> dict[str, str]:
    """The folders, within `path`, that hold a folder a class: of each split its own, or `.`.

    Returns:
        The folders by split; `train` alone, with `.`, where the data set names no splits. A class
        may be called as a split, such as `train` beside `bus`.

    Raises:
        DataError: Folders are named after splits, and it is unclear whether they are some; or the
            folders of a class are.
    """
    parts = split_folders(path)
    others = [name for name in folders_in(path) if name not in parts.values()]
    classes = [name for name in others if has_images(path / name)]
    if classes and len(parts) == 1 and not _holds_classes(path / next(iter(parts.values()))):
        parts = {}
    if parts:
        _check_splits(path, parts, classes)
        if others:
            some = ", ".join(map(printable, others))
            logger.warning("%s: ignoring folders that are no splits: %s", path, some)
    parts = parts or {"train": "."}
    for part in parts.values():
        _check_classes(path / part)
    return parts


def _check_splits(path: Folder, parts: dict[str, str], classes: list[str]) -> None:
    names = ", ".join(map(printable, parts.values()))
    if "train" not in parts:
        raise DataError(
            f"{path}: folders are named after splits ({names}), but none `train`; add it, or set "
            "prepare.path to the folder of the classes"
        )
    mixed = [name for name in classes if has_own_images(path / name)]
    if mixed and (len(parts) == 1 or not _holds_classes(path / parts["train"])):
        raise DataError(
            f"{path}: folders are named after splits ({names}), beside the class "
            f"{printable(mixed[0])}; move the classes into folders of splits, or rename what is "
            "no split"
        )


def _check_classes(path: Folder) -> None:
    """Names class folders without an image of their own whose folders have some: the level may be
    wrong.
    """
    deep = {}
    folders = folders_in(path)
    _check_kinds(path, folders)
    for name in folders:
        inner = [] if has_own_images(path / name) else folders_in(path / name)
        if inner := [folder for folder in inner if has_images(path / name / folder)]:
            deep[name] = inner
            splits = {split for folder in inner if (split := split_of(folder))}
            if len(splits) > 1 or len(splits) == len(inner):
                raise DataError(
                    f"{path / name}: holds folders of splits, {', '.join(inner)}, in place of "
                    "images; set prepare.path to it, or put the classes into folders of splits"
                )
            if split_of(name) or name == path.name:  # as archives unpack
                raise DataError(
                    f"{path / name}: named after no class, but holds folders with images "
                    f"({', '.join(inner[:NUM_EXAMPLES])}); move them one level up"
                )
    if deep:
        some = "; ".join(
            f"{printable(name)} ({', '.join(map(printable, inner[:NUM_EXAMPLES]))})"
            for name, inner in list(deep.items())[:NUM_EXAMPLES]
        )
        logger.warning(
            "%s: %d of %d class folders have no image of their own, but folders with images: %s; "
            "where those are the classes, set prepare.path to their folder",
            path, len(deep), len(folders), some,
        )  # fmt: skip


def _check_kinds(path: Folder, folders: list[str]) -> None:
    """Refuses folders of images beside those of their labels or masks, as detectors read them."""
    letters = {name: re.sub(r"[\W\d_]+", "", name).casefold() for name in folders}
    images, labels = ([n for n in folders if letters[n] in kind] for kind in (IMAGES, LABELS))
    if images and labels:
        raise DataError(
            f"{path}: {printable(images[0])} and {printable(labels[0])} are named after images and "
            "their labels, not after classes; put the images into a folder for each class, or take "
            "prepare.source coco for annotations of objects"
        )


def _holds_classes(path: Folder) -> bool:
    """Whether a folder looks like a split: with folders of images, and no image of its own."""
    return not has_own_images(path) and has_images(path)


def has_own_images(path: Folder) -> bool:
    """Whether an image lies in a folder itself, by the suffixes of its files."""
    if isinstance(path, BucketFolder):
        return any(map(_is_image, path.files))
    with os.scandir(path) as entries:
        return any(_is_image(entry.name) and entry.is_file() for entry in entries)


def has_images(path: Folder) -> bool:
    """Whether an image lies in a folder or below, by the suffixes of files."""
    if isinstance(path, BucketFolder):
        return has_own_images(path) or any(map(has_images, path.folders.values()))
    return any(any(map(_is_image, files)) for _, _, files in os.walk(path))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().rpartition(".")[2] in READABLE_SUFFIXES
