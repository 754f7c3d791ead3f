"""What sources share whose pictures are rows of pixels in one file, each with the number of its
class.

Such pictures are small and lossless, and a shard holds JPEGs: they are stored at quality 100 with
full colour resolution, which changes the pixels of CIFAR-10 by 0.4 of 255 on average and 4 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kdeov.errors import KdeovError
from kdeov.prompts import templates
from pipeline.dataset import SPLITS
from pipeline.pictures import encode_pixels
from pipeline.sources.base import Rejected, Sample, Source
from pipeline.sources.naming import hash_split


@dataclass(frozen=True)
class Table:
    """Pictures of an official split.

    Attributes:
        labels: Numbers of the classes, [N].
        rows: Reads the pictures in order: uint8 [height, width, 3], or [height, width] in grey.
    """

    labels: np.ndarray
    rows: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One picture, on its way to a worker process."""

    table: str
    number: int
    label: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of a table that belong to a split, read as they go.

    Attributes:
        name: Of the table.
        table: All rows.
        chosen: Which of them, boolean [N].
    """

    name: str
    table: Table
    chosen: np.ndarray

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Row]:
        for number, pixels in enumerate(self.table.rows()):
            if self.chosen[number]:
                yield Row(self.name, number, int(self.table.labels[number]), pixels)


@dataclass(frozen=True)
class RowReader:
    """Makes samples of rows.

    Attributes:
        classes: Their names.
        prompts: Templates of captions.
        max_side: Longest side.
    """

    classes: list[str]
    prompts: tuple[str, ...]
    max_side: int | None

    def __call__(self, row: Row) -> Sample | Rejected:
        name = f"{row.table}/{row.number}"
        if not 0 <= row.label < len(self.classes):
            return Rejected(name, f"label {row.label} of {len(self.classes)} classes")
        picture = encode_pixels(row.pixels, self.max_side)
        captions = [prompt.format(self.classes[row.label]) for prompt in self.prompts]
        key = f"{row.table}-{row.number:07d}"
        return Sample(key, picture.jpeg, captions, name, row.label, grid=picture.grid)


def pixel_rows(
    tables: Mapping[str, Table],
    classes: list[str],
    template_set: str,
    shares: Mapping[str, float],
    seed: int,
    max_side: int | None,
) -> Source:
    """The source of some tables.

    Args:
        tables: Of the official splits, `train` among them.
        classes: Names by number.
        template_set: Set of `kdeov.prompts` that makes captions of class names.
        shares: Of the training table, for splits that have no table of their own.
        seed: Picks their rows.
        max_side: See `pipeline.pictures.encode_pixels`.

    Raises:
        KdeovError: Unknown templates, or two classes of one name.
    """
    names = [" ".join(name.replace("_", " ").split()) for name in classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise KdeovError(f"two classes are called {twice!r}; rename one")
    val, test = (0.0 if split in tables else shares[split] for split in ("val", "test"))
    train = tables["train"]
    drawn = np.array(
        [hash_split(f"train/{number}", seed, val, test) for number in range(len(train.labels))]
    )
    inputs = {split: Rows("train", train, drawn == split) for split in SPLITS}
    for split, table in tables.items():
        if split != "train":
            inputs[split] = Rows(split, table, np.ones(len(table.labels), dtype=bool))
    trained = set(np.unique(train.labels[inputs["train"].chosen]))
    held_out = [name for number, name in enumerate(names) if number not in trained]
    return Source(inputs, RowReader(names, templates(template_set), max_side), names, held_out)
