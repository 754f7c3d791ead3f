"""The source `arrays`: uint8 arrays, labelled or not, in an `.npz` file or `.npy` files."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.config.source_params import ArrayPart, ArraysParams
from pipeline.prepare.readers.array_file import ArrayFile
from pipeline.prepare.readers.array_rows import Table, array_rows
from pipeline.prepare.readers.base import Source


def arrays(path: Path, options: ArraysParams, seed: int, max_image_side: int | None) -> Source:
    """Lists the rows of arrays.

    Args:
        path: The `.npz` file, or the folder of `.npy` files.
        options: Names of arrays, templates, and the shares of splits that have no arrays.
        seed: Seed of the choice of their rows.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.

    Raises:
        ConfigError: Splits share rows, or an option needs labels and there are none.
        DataError: An array is missing, or has another shape or type.
    """
    file = ArrayFile(path)
    parts = {split: getattr(options.splits, split) for split in SPLITS}
    tables = {split: _table(file, part, split) for split, part in parts.items() if part is not None}
    for one, other in combinations(tables, 2):
        _check_apart(one, tables[one], other, tables[other])
    shares = {"val": options.val, "test": options.test}
    classes = _classes(file, options, tables)
    return array_rows(tables, classes, options.templates, shares, seed, max_image_side)


def _table(file: ArrayFile, part: ArrayPart, split: str) -> Table:
    shape = file.shape(part.images)
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape[1:]:
        raise DataError(
            f"{file.path}: {part.images} is {list(shape)}; save images as [N, height, width, 3], "
            "or [N, height, width] in gray"
        )
    start, stop = part.rows or (0, shape[0])
    if stop > shape[0]:
        raise ConfigError(
            f"{file.path}: {part.images} has {shape[0]} rows, but prepare.arrays.splits.{split}."
            f"rows ends at {stop}; correct it"
        )
    labels = None if part.labels is None else _labels(file, part.labels, part.images, shape[0])
    return Table(
        part.images,
        stop - start,
        None if labels is None else labels[start:stop],
        partial(file.rows, part.images, start, stop),
        start,
    )


def _labels(file: ArrayFile, name: str, images: str, num_images: int) -> np.ndarray:
    labels = file.load(name)
    if labels.shape == (len(labels), 1):
        labels = labels[:, 0]
    if labels.shape != (num_images,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{file.path}: {name} is {labels.dtype} {list(labels.shape)}, but {images} has "
            f"{num_images} images; give one integer for each"
        )
    return labels


def _check_apart(one: str, table: Table, other: str, other_table: Table) -> None:
    start = max(table.first, other_table.first)
    stop = min(part.first + part.count for part in (table, other_table))
    if table.name == other_table.name and start < stop:
        raise ConfigError(
            f"prepare.arrays.splits: {one} and {other} both take rows {start} to {stop - 1} of "
            f"{table.name}; give them other rows"
        )


def _classes(file: ArrayFile, options: ArraysParams, tables: dict[str, Table]) -> list[str]:
    unlabelled = [split for split, table in tables.items() if table.labels is None]
    if unlabelled and options.templates is not None:
        raise ConfigError(
            f"prepare.arrays.templates needs classes, but {unlabelled[0]} has no labels; name its "
            "labels, or set templates to null"
        )
    if len(unlabelled) == len(tables):
        if options.class_names is not None:
            raise ConfigError(
                "prepare.arrays.class_names is set, but no split has labels; set it to null"
            )
        return []
    if options.class_names is None:
        raise ConfigError("prepare.arrays.class_names is null; name the array of class names")
    classes = file.load(options.class_names)
    if classes.ndim != 1 or classes.dtype.kind not in "US":
        raise DataError(
            f"{file.path}: {options.class_names} is {classes.dtype} {list(classes.shape)}; save "
            "the class names as a one-dimensional np.array of strings"
        )
    try:
        return [n.decode() if isinstance(n, bytes) else str(n) for n in classes]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.path}: {options.class_names} is not UTF-8 ({error}); save an array of str"
        ) from error
