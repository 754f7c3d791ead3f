"""The source `image_folder`: one folder of images a class, with captions from prompt templates."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from kdeov.prompts import templates
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.tables import read_json_table
from pipeline.artifacts.texts import class_name, file_name
from pipeline.config.source_params import ImageFolderParams
from pipeline.prepare.readers.base import Rejected, Source, warn_of_some
from pipeline.prepare.readers.folder_files import MAX_BYTES, TOO_LARGE, refuse_folder
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split
from pipeline.prepare.readers.remote.bucket_folder import BucketFolder
from pipeline.prepare.readers.split_folders import Folder, class_levels, folders_in

OPTION = "prepare.image_folder.class_names"
UNCLASSED = "lies in no class folder"


def image_folder(
    path: Folder, options: ImageFolderParams, seed: int, max_image_side: int | None
) -> Source:
    """Lists the images of class folders in `path`, or in its folders of splits (see
    `class_levels`).

    A split that has no folder of its own takes its share of `train`, or of the whole, by a hash of
    names. Files and folders whose name begins with a dot are ignored.

    Args:
        path: The folder, here or in a bucket.
        options: Templates, names of classes, and the shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        DataError: The folder or the file of class names is missing, two folders have one class
            name, or the level of the classes is unclear.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise DataError(f"{path}: no such folder of images; check prepare.path")
    parts = class_levels(path)
    names = _class_names(path, list(parts.values()), options.class_names)
    captions: dict[str, list[str] | None] = dict.fromkeys(names.values())
    if options.templates is not None:
        prompts = templates(options.templates)
        captions = {name: [prompt.format(name) for prompt in prompts] for name in captions}
    val, test = (0.0 if s in parts else getattr(options, s) for s in ("val", "test"))
    splits: dict[str, list[ImageFile | Rejected]] = {split: [] for split in SPLITS}
    counts = Counter(dict.fromkeys(captions, 0))
    table = file_name(options.class_names or "")
    for official, part in parts.items():
        walk = _walk(path, part) if isinstance(path, Path) else _walk_bucket(path / part)
        for folder, name, problem, version in walk:
            if name == table:
                continue
            split = hash_split(name, seed, val, test) if official == "train" else official
            if problem:
                splits[split].append(Rejected(name, problem))
                continue
            label = names[folder]
            counts[label] += 1
            splits[split].append(ImageFile(name, captions[label], label, version=version))
    single = [label for label, count in counts.items() if count == 1]
    warn_of_some("one image", single, len(counts))
    return image_files(path, splits, max_image_side, "prepare.path", names.values())


def _walk(path: Path, part: str) -> Iterator[tuple[str, str, str | None, str]]:
    """Class folder, relative path, problem (or None) and no version of each file, in order."""
    for folder, folders, files in os.walk(path / part, onerror=refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        inside = here.relative_to(path / part).parts
        where = "" if here == path else f"{here.relative_to(path)}/"
        for name in folders:
            if (here / name).is_symlink():  # not followed, but reported
                yield "", where + name, "a link to a folder", ""
        problem = None if inside else UNCLASSED
        for name in sorted(files):
            if not name.startswith("."):
                yield inside[0] if inside else "", where + name, problem, ""


def _walk_bucket(part: BucketFolder) -> Iterator[tuple[str, str, str | None, str]]:
    """Class folder, place, problem (or None) and version of each object, in order."""
    for place, entry in part.walk():
        inside = place.removeprefix(part.within("")).split("/")[:-1]
        problem = TOO_LARGE if entry.size > MAX_BYTES else None
        yield inside[0] if inside else "", place, problem if inside else UNCLASSED, entry.version


def _class_names(path: Folder, parts: list[str], table: str | None) -> dict[str, str]:
    """Maps folders to class names.

    Raises:
        DataError: A folder has no class name, or two of one part have the same.
    """
    given = None if table is None else _table(path, table)
    spelled = {file_name(folder): name for folder, name in (given or {}).items()}
    names: dict[str, str] = {}
    for part in parts:
        owners: dict[str, str] = {}  # class name to folder
        for folder in folders_in(path / part):
            raw = folder if given is None else spelled.get(file_name(folder))
            if not isinstance(raw, str) or not (name := class_name(raw)):
                raise DataError(_unnamed(path, folder, table))
            if (other := owners.setdefault(name, folder)) != folder:
                raise DataError(
                    f"{path}: class folders {other!r} and {folder!r} are both called {name!r}; "
                    "rename or merge them"
                )
            names[folder] = name
    return names


def _table(path: Folder, table: str) -> dict[str, Any]:
    if isinstance(path, Path):
        return read_json_table(path / table, OPTION)
    return path.read_json(file_name(table), OPTION)


def _unnamed(path: Folder, folder: str, table: str | None) -> str:
    if table is None:
        return f"{path}: the class folder {folder!r} has no name that can be read; rename it"
    return f"{path}/{file_name(table)}: no class name for the folder {folder!r}; add it"
