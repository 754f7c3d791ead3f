"""The `arrays` source: pictures as uint8 arrays with labels, in an `.npz` file or `.npy` files."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from kdeov.errors import KdeovError
from pipeline.dataset import SPLITS
from pipeline.source_params import ArrayPart, ArraysParams
from pipeline.sources.array_file import ArrayFile
from pipeline.sources.base import Source
from pipeline.sources.pixel_rows import Table, pixel_rows


def arrays(path: Path, options: ArraysParams, seed: int, max_side: int | None) -> Source:
    """Lists the rows of arrays.

    Args:
        path: The `.npz` file, or the folder of `.npy` files.
        options: Names of arrays, templates, and the shares of splits that have no arrays.
        seed: Picks the rows of such splits.
        max_side: See `pipeline.pictures.encode_pixels`.

    Raises:
        KdeovError: An array is missing or has another shape or type.
    """
    file = ArrayFile(path)
    parts = {split: getattr(options.splits, split) for split in SPLITS}
    tables = {split: _table(file, part) for split, part in parts.items() if part is not None}
    _check_apart(tables)
    classes = file.load(options.class_names)
    if classes.ndim != 1 or classes.dtype.kind not in "US":
        raise KdeovError(
            f"{path}: {options.class_names} is {classes.dtype} {list(classes.shape)}; save the "
            "names of classes as np.array of texts"
        )
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in classes]
    shares = {"val": options.val, "test": options.test}
    return pixel_rows(tables, names, options.templates, shares, seed, max_side)


def _table(file: ArrayFile, part: ArrayPart) -> Table:
    shape = file.shape(part.images)
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise KdeovError(
            f"{file.path}: {part.images} is {list(shape)}; pictures are [N, height, width, 3], or "
            "[N, height, width] in grey"
        )
    start, stop = part.rows or (0, shape[0])
    if not start < stop <= shape[0]:
        raise KdeovError(
            f"{file.path}: {part.images} has {shape[0]} rows, and prepare.arrays asks for "
            f"{start} to {stop}; give [first, last + 1]"
        )
    if part.labels is None:
        return Table(part.images, range(start, stop), None, partial(file.rows, part.images))
    labels = file.load(part.labels)
    if labels.shape == (len(labels), 1):
        labels = labels[:, 0]
    if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise KdeovError(
            f"{file.path}: {part.labels} is {labels.dtype} {list(labels.shape)}, and {part.images} "
            f"has {shape[0]} pictures; give one whole number each"
        )
    return Table(part.images, range(start, stop), labels, partial(file.rows, part.images))


def _check_apart(tables: dict[str, Table]) -> None:
    for (split, one), (other, two) in combinations(tables.items(), 2):
        first, last = max(one.span[0], two.span[0]), min(one.span[-1], two.span[-1])
        if one.name == two.name and first <= last:
            raise KdeovError(
                f"prepare.arrays: row {first} of {one.name} is in {split} and in {other}; give "
                "each split rows of its own"
            )
