"""Images that are rows of an array, with or without class numbers: the common part of the sources
`arrays`, `cifar10` and `cifar100`.

Such images are small and lossless, but a shard holds JPEGs: they are stored at quality 100 without
chroma subsampling, which changes the pixels of CIFAR-10 by 0.4 of 255 on average and 4 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kdeov.errors import DataError
from kdeov.prompts import templates
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.texts import class_name
from pipeline.prepare.images import UnusableImage, encode_pixels
from pipeline.prepare.readers.base import Rejected, Sample, Source, warn_of_classes
from pipeline.prepare.readers.naming import hash_split, unique_keys


@dataclass(frozen=True)
class Table:
    """Images of an official split.

    Attributes:
        name: Prefix of the names of its rows.
        count: Number of rows, N.
        labels: Class numbers [N], or None where the split has none.
        rows: Reads the images in order: uint8 [height, width, 3], or [height, width] in gray.
        first: Number of the first row.
    """

    name: str
    count: int
    labels: np.ndarray | None
    rows: Callable[[], Iterator[np.ndarray]]
    first: int = 0


@dataclass(frozen=True)
class Row:
    """One image, on its way to a worker process."""

    table: str
    number: int
    label: int | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of a table that belong to a split, read one at a time.

    Attributes:
        table: All rows.
        chosen: Rows of the split, boolean [N].
    """

    table: Table
    chosen: np.ndarray

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Row]:
        labels = self.table.labels
        for place, pixels in enumerate(self.table.rows()):
            if self.chosen[place]:
                label = None if labels is None else int(labels[place])
                yield Row(self.table.name, self.table.first + place, label, pixels)


@dataclass(frozen=True)
class RowReader:
    """Makes samples of rows.

    Attributes:
        keys: Prefix of the keys of each table.
        classes: Class names by number.
        numbers: Numbers of the classes that are stored, by their number in the tables.
        prompts: Templates of captions.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.
    """

    keys: dict[str, str]
    classes: list[str]
    numbers: dict[int, int]
    prompts: tuple[str, ...]
    max_image_side: int | None

    def __call__(self, row: Row) -> Sample | Rejected:
        name = f"{row.table}/{row.number}"
        captions: list[str] = []
        label = None
        if row.label is not None:
            if not 0 <= row.label < len(self.classes):
                return Rejected(
                    name, f"label {row.label}, but there are {len(self.classes)} classes"
                )
            captions = [prompt.format(self.classes[row.label]) for prompt in self.prompts]
            label = self.numbers[row.label]
        try:
            image = encode_pixels(row.pixels, self.max_image_side)
        except UnusableImage as error:
            return Rejected(name, str(error))
        key = f"{self.keys[row.table]}-{row.number:07d}"
        return Sample(key, image.jpeg, captions, name, label, grid=image.grid)


def array_rows(
    tables: Mapping[str, Table],
    classes: list[str],
    template_set: str | None,
    shares: Mapping[str, float],
    seed: int,
    max_image_side: int | None,
) -> Source:
    """The source of the rows of tables.

    Args:
        tables: A table for `train`, and for each other official split.
        classes: Class names by number.
        template_set: Set of `kdeov.prompts` that turns class names into captions; None gives none.
        shares: Share of the training table of each split without a table.
        seed: Seed of the choice of their rows.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.

    Raises:
        ConfigError: The template set is unknown.
        DataError: A class has no name, or two have one.
    """
    names = [class_name(name) for name in classes]
    for number, name in enumerate(names):
        if not name:
            raise DataError(f"class {number} has no name ({classes[number]!r}); give it one")
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two classes are called {name!r}; rename one")
    val, test = (0.0 if split in tables else shares[split] for split in ("val", "test"))
    train = tables["train"]
    numbers = range(train.first, train.first + train.count)
    drawn = np.array([hash_split(f"{train.name}/{n}", seed, val, test) for n in numbers])
    inputs = {split: Rows(train, drawn == split) for split in SPLITS}
    for split, table in tables.items():
        if split != "train":
            inputs[split] = Rows(table, np.ones(table.count, dtype=bool))
    stored = {split: _labels(part, len(names)) for split, part in inputs.items()}
    kept = sorted(set().union(*stored.values()))
    renumbered = {number: place for place, number in enumerate(kept)}
    warn_of_classes(names, [names[number] for number in kept])
    held_out = [] if train.labels is None else [n for n in kept if n not in stored["train"]]
    keys = unique_keys(table.name for table in tables.values())
    prompts = () if template_set is None else templates(template_set)
    return Source(
        inputs,
        RowReader(keys, names, renumbered, prompts, max_image_side),
        [names[number] for number in kept],
        [names[number] for number in held_out],
    )


def _labels(rows: Rows, num_classes: int) -> set[int]:
    """The class numbers of rows; numbers of no class, whose rows are rejected, are left out."""
    if rows.table.labels is None:
        return set()
    return {n for n in np.unique(rows.table.labels[rows.chosen]).tolist() if 0 <= n < num_classes}
