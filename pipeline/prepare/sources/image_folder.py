"""The source `image_folder`: one folder of images a class, with captions from prompt templates."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from kdeov.errors import DataError
from kdeov.prompts import templates
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.tables import read_json_table
from pipeline.config.source_params import ImageFolderParams
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split

logger = logging.getLogger(__name__)


def image_folder(
    path: Path, options: ImageFolderParams, seed: int, max_image_side: int | None
) -> Source:
    """Lists the images of class folders in `path`, or in its folders `train`, `val` and `test`.

    A split that has no folder of its own takes its share of `train`, or of the whole, by a hash of
    names. Files and folders whose name begins with a dot are ignored.

    Args:
        path: The folder.
        options: Templates, names of classes, and the shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        DataError: The folder or the file of class names is missing, or two folders have one class
            name.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of images; check prepare.path")
    # without a folder of training images, `val` and `test` are classes like others
    official = [s for s in SPLITS if (path / s).is_dir()] if (path / "train").is_dir() else []
    if official and (others := sorted(set(_folders(path)) - set(official))):
        logger.warning("%s: ignoring folders that are no splits: %s", path, ", ".join(others))
    names = _class_names(path, official, options.class_names)
    captions: dict[str, list[str] | None] = dict.fromkeys(names.values())
    if options.templates is not None:
        prompts = templates(options.templates)
        captions = {name: [prompt.format(name) for prompt in prompts] for name in captions}
    val, test = (0.0 if s in official else getattr(options, s) for s in ("val", "test"))
    splits: dict[str, list[ImageFile | Rejected]] = {split: [] for split in SPLITS}
    counts = Counter(dict.fromkeys(captions, 0))
    for part in official or ["."]:
        for folder, name, problem in _walk(path, part):
            if name == options.class_names:
                continue
            split = part if part in ("val", "test") else hash_split(name, seed, val, test)
            if problem:
                splits[split].append(Rejected(name, problem))
                continue
            label = names[folder]
            counts[label] += 1
            splits[split].append(ImageFile(name, captions[label], label))
    for number, words in ((0, "no image"), (1, "one image")):
        if few := sorted(label for label, count in counts.items() if count == number):
            some = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
            logger.warning("%d of %d classes have %s: %s", len(few), len(counts), words, some)
    return image_files(path, splits, max_image_side, "prepare.path")


def _walk(path: Path, part: str) -> Iterator[tuple[str, str, str | None]]:
    """Class folder, relative path and problem (or None) of each file, in order."""
    for folder, folders, files in os.walk(path / part, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        inside = here.relative_to(path / part).parts
        where = "" if here == path else f"{here.relative_to(path)}/"
        for name in folders:
            if (here / name).is_symlink():  # not followed, but reported
                yield "", where + name, "a link to a folder"
        problem = None if inside else "lies in no class folder"
        for name in sorted(files):
            if not name.startswith("."):
                yield inside[0] if inside else "", where + name, problem


def _class_names(path: Path, official: list[str], table: str | None) -> dict[str, str]:
    """Maps folders to class names.

    Raises:
        DataError: A folder has no class name, or two have the same.
    """
    folders = sorted({folder for part in official or ["."] for folder in _folders(path / part)})
    if table is None:
        names = {folder: folder.replace("_", " ") for folder in folders}
    else:
        given = read_json_table(path / table, "prepare.image_folder.class_names")
        if unnamed := [folder for folder in folders if not isinstance(given.get(folder), str)]:
            raise DataError(f"{path / table}: no class name for the folder {unnamed[0]!r}; add it")
        names = {folder: given[folder] for folder in folders}
    owners: dict[str, str] = {}  # class name to folder
    for folder, name in names.items():
        if owners.setdefault(name, folder) != folder:
            raise DataError(
                f"{path}: class folders {owners[name]!r} and {folder!r} are both called {name!r}; "
                "rename or merge them"
            )
    return names


def _folders(path: Path) -> list[str]:
    return [p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: {error.strerror}; make the folder readable") from error
