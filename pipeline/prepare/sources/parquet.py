"""The source `parquet`: images in Parquet files, as Hugging Face exports data sets.

A file belongs to the split in its name (`train-00000-of-00005.parquet`, or `own_train.parquet`
beside `own_test.parquet`), or in that of its folder.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, DataError
from kdeov.prompts import templates
from pipeline.artifacts.dataset import SPLITS
from pipeline.config.source_params import ParquetParams
from pipeline.console import printable
from pipeline.prepare.readers.base import Source, warn_of_classes
from pipeline.prepare.readers.folder_files import refuse_folder
from pipeline.prepare.readers.naming import hash_split, unique_keys
from pipeline.prepare.readers.parquet_rows import FileRows, ParquetRows, Root, RowGroupReader
from pipeline.prepare.readers.remote.read_ahead import in_order
from pipeline.prepare.readers.split_folders import Folder, split_of, splits_of
from pipeline.prepare.sources.parquet_files import ParquetFacts, read_facts

logger = logging.getLogger(__name__)

PART = re.compile(r"(.+?)-\d+-of-\d+(-[0-9a-f]+)?")  # older exports end with a digest
NUM_EXAMPLES = 3


def parquet(path: Folder, options: ParquetParams, seed: int, max_image_side: int | None) -> Source:
    """Lists the rows of Parquet files; of their columns, labels alone are read.

    A split that no file is named after takes its share of `train`, or of the whole, by a hash of
    file and row. A class counts as stored where a row has its label.

    Args:
        path: The folder, here or in a bucket, or a file.
        options: Names of columns, templates, and the shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        ConfigError: The options contradict each other.
        DataError: A file is damaged or lacks a column, or the files are of several data sets.
    """
    _check_options(options)
    root, names = _files(path)
    parts = _splits(path, names)
    files = [name for name in names if name in parts]
    named = set(parts.values())
    val, test = (0.0 if split in named else getattr(options, split) for split in ("val", "test"))
    inputs, stored = {split: ParquetRows() for split in SPLITS}, {s: set[str]() for s in SPLITS}
    prefixes = unique_keys(files)
    first: ParquetFacts | None = None
    for file, found in in_order(partial(read_facts, root, options), files):
        first = first or found
        _check_alike(path, first, found)
        rows = _rows_of(found, parts[file], seed, val, test)
        for split, chosen in rows.items():
            part = FileRows(file, found.version, prefixes[file], found.ends, chosen)
            inputs[split].files.append(part)
            stored[split] |= found.classes_of(chosen)
    kept = sorted(set().union(*stored.values()))
    assert first is not None  # there is a file
    warn_of_classes(first.names or kept, kept)
    reader = RowGroupReader(
        root,
        first.columns,
        first.names,
        {name: number for number, name in enumerate(kept)},
        () if options.templates is None else templates(options.templates),
        max_image_side,
    )
    held_out = [name for name in kept if name not in stored["train"]]
    return Source(inputs, reader, kept, held_out)


def _check_options(options: ParquetParams) -> None:
    where = "prepare.parquet"
    if options.templates is not None and options.label_column is None:
        raise ConfigError(
            f"{where}.templates needs classes; name {where}.label_column, or set templates to null"
        )
    if options.templates is not None and options.caption_column is not None:
        raise ConfigError(
            f"{where}.templates and {where}.caption_column both give captions; set one to null"
        )


def _files(path: Folder) -> tuple[Root, list[str]]:
    """The root, and the paths of all Parquet files below it, in order; hidden ones are ignored.

    Raises:
        DataError: There is none, or a folder cannot be read.
    """
    if not isinstance(path, Path):
        found = [place for place, _ in path.walk()]
    elif path.is_file():
        return path.parent.resolve(), [path.name]
    else:
        walked = os.walk(path, onerror=refuse_folder) if path.exists() else ()
        found = [
            (Path(folder) / name).relative_to(path).as_posix()
            for folder, _, names in walked
            for name in names
        ]
    parquets = (name for name in found if name.lower().endswith(".parquet"))
    names = sorted(name for name in parquets if "/." not in f"/{name}")
    if not names:
        raise DataError(f"{path}: no .parquet in this folder or below; check prepare.path")
    return path.resolve() if isinstance(path, Path) else path.storage, names


def _splits(path: Folder, names: Sequence[str]) -> dict[str, str]:
    """The split of each file that belongs to one.

    Raises:
        DataError: The files are of several data sets, or none is of `train`.
    """
    found = {name: split for name in names if (split := _split(name)) is not None}
    if not found:  # they may be called own_train and own_test
        parts = splits_of(path, sorted({_stem(name) for name in names}))
        found = {name: parts[_stem(name)] for name in names if _stem(name) in parts}
    if others := [name for name in names if found and name not in found]:
        some = ", ".join(map(printable, others[:NUM_EXAMPLES]))
        logger.warning("%s: ignoring %d files of no split, such as %s", path, len(others), some)
    parts = found or dict.fromkeys(names, "train")
    folders = sorted({_folder(name) for name in parts})
    if len(folders) > 1:
        some = ", ".join(map(printable, folders[:NUM_EXAMPLES]))
        raise DataError(
            f"{path}: its .parquet files lie in several folders ({some}), which are several data "
            "sets; set prepare.path to one of them"
        )
    if "train" not in parts.values():
        raise DataError(
            f"{path}: files are named after splits ({', '.join(sorted(set(parts.values())))}), but "
            "none after train; add some, or rename them"
        )
    return parts


def _split(name: str) -> str | None:
    folders = name.split("/")[:-1]
    return split_of(_stem(name)) or (split_of(folders[-1]) if folders else None)


def _stem(name: str) -> str:
    """The name of a file without its ending, and without the number of its part."""
    stem = name.rpartition("/")[2].rpartition(".")[0]
    part = PART.fullmatch(stem)
    return part[1] if part else stem


def _folder(name: str) -> str:
    """The folder of a file, without one that stands for a split."""
    folders = name.split("/")[:-1]
    if folders and split_of(folders[-1]):
        folders = folders[:-1]
    return "/".join(folders) or "."


def _check_alike(path: Folder, first: ParquetFacts, other: ParquetFacts) -> None:
    if (first.columns, first.names) != (other.columns, other.names):
        raise DataError(
            f"{path}: {first.file} and {other.file} differ in the types of their columns or in the "
            "names of classes; export them together"
        )


def _rows_of(
    facts: ParquetFacts, split: str, seed: int, val: float, test: float
) -> dict[str, np.ndarray]:
    """Numbers of the rows of a file that belong to each split."""
    numbers = np.arange(facts.num_rows)
    if split != "train" or not (val or test):
        return {split: numbers}
    names = (f"{facts.file}/{number}" for number in range(facts.num_rows))
    drawn = np.array([hash_split(name, seed, val, test) for name in names])
    return {name: numbers[drawn == name] for name in SPLITS}
