"""What sources share whose images are rows of pixels in one file, each with the number of its
class or without.

Such images are small and lossless, and a shard holds JPEGs: they are stored at quality 100 with
full colour resolution, which changes the pixels of CIFAR-10 by 0.4 of 255 on average and 4 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kdeov.errors import KdeovError
from kdeov.prompts import templates
from pipeline.artifacts.dataset import SPLITS
from pipeline.prepare.images import UnusableImage, encode_pixels
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.readers.naming import hash_split, unique_keys


@dataclass(frozen=True)
class Table:
    """Images of an official split.

    Attributes:
        name: What its rows are called after.
        count: How many there are, N.
        labels: Numbers of the classes, [N], or None where the split has none.
        rows: Reads the images in order: uint8 [height, width, 3], or [height, width] in grey.
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
    """The rows of a table that belong to a split, read as they go.

    Attributes:
        table: All rows.
        chosen: Which of them, boolean [N].
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
        keys: What the keys of each table begin with.
        classes: Their names.
        prompts: Templates of captions.
        max_image_side: Longest side.
    """

    keys: dict[str, str]
    classes: list[str]
    prompts: tuple[str, ...]
    max_image_side: int | None

    def __call__(self, row: Row) -> Sample | Rejected:
        name = f"{row.table}/{row.number}"
        captions: list[str] = []
        if row.label is not None:
            if not 0 <= row.label < len(self.classes):
                return Rejected(name, f"label {row.label} of {len(self.classes)} classes")
            captions = [prompt.format(self.classes[row.label]) for prompt in self.prompts]
        try:
            image = encode_pixels(row.pixels, self.max_image_side)
        except UnusableImage as why:
            return Rejected(name, str(why))
        key = f"{self.keys[row.table]}-{row.number:07d}"
        return Sample(key, image.jpeg, captions, name, row.label, grid=image.grid)


def pixel_rows(
    tables: Mapping[str, Table],
    classes: list[str],
    template_set: str | None,
    shares: Mapping[str, float],
    seed: int,
    max_image_side: int | None,
) -> Source:
    """The source of some tables.

    Args:
        tables: Of the official splits, `train` among them.
        classes: Names by number.
        template_set: Set of `kdeov.prompts` that makes captions of class names; None makes none.
        shares: Of the training table, for splits that have no table of their own.
        seed: Picks their rows.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.

    Raises:
        KdeovError: Unknown templates, or two classes of one name.
    """
    names = [" ".join(name.replace("_", " ").split()) for name in classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise KdeovError(f"two classes are called {twice!r}; rename one")
    val, test = (0.0 if split in tables else shares[split] for split in ("val", "test"))
    train = tables["train"]
    numbers = range(train.first, train.first + train.count)
    drawn = np.array([hash_split(f"{train.name}/{n}", seed, val, test) for n in numbers])
    inputs = {split: Rows(train, drawn == split) for split in SPLITS}
    for split, table in tables.items():
        if split != "train":
            inputs[split] = Rows(table, np.ones(table.count, dtype=bool))
    held_out = []
    if train.labels is not None:
        trained = set(np.unique(train.labels[inputs["train"].chosen]))
        held_out = [name for number, name in enumerate(names) if number not in trained]
    keys = unique_keys(table.name for table in tables.values())
    prompts = () if template_set is None else templates(template_set)
    return Source(inputs, RowReader(keys, names, prompts, max_image_side), names, held_out)
