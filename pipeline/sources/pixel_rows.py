"""What sources share whose pictures are rows of pixels in one file, each with the number of its
class.

Such pictures are small and lossless, and a shard holds JPEGs: they are stored at quality 100 with
full colour resolution, which changes the pixels of CIFAR-10 by 0.4 of 255 on average and 4 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

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
        name: Of the array that holds them.
        span: Which of its rows they are.
        labels: Numbers of the classes of all of its rows; None where labels are not to be seen.
        rows: Reads all rows in order: uint8 [height, width, 3], or [height, width] in grey.
    """

    name: str
    span: range
    labels: np.ndarray | None
    rows: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One picture, on its way to a worker process."""

    table: str
    number: int
    label: int | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The rows of a table that belong to a split, read as they go.

    Attributes:
        table: All rows.
        chosen: Which of the span, boolean [N].
    """

    table: Table
    chosen: np.ndarray

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Row]:
        table = self.table
        for number, pixels in enumerate(islice(table.rows(), table.span.stop)):
            if number in table.span and self.chosen[number - table.span.start]:
                label = None if table.labels is None else int(table.labels[number])
                yield Row(table.name, number, label, pixels)


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
        if row.label is not None and not 0 <= row.label < len(self.classes):
            return Rejected(name, f"label {row.label} of {len(self.classes)} classes")
        picture = encode_pixels(row.pixels, self.max_side)
        captions = (
            []
            if row.label is None
            else [prompt.format(self.classes[row.label]) for prompt in self.prompts]
        )
        key = f"{row.table}-{row.number:07d}"
        return Sample(key, picture.jpeg, captions, name, row.label, hash=picture.hash)


def pixel_rows(
    tables: Mapping[str, Table],
    classes: list[str],
    template_set: str | None,
    shares: Mapping[str, float],
    seed: int,
    max_side: int | None,
) -> Source:
    """The source of some tables.

    Args:
        tables: Of the official splits, `train` among them.
        classes: Names by number.
        template_set: Set of `kdeov.prompts` that makes captions of class names; None leaves
            captions out, as pictures without labels need.
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
        [hash_split(f"{train.name}/{number}", seed, val, test) for number in train.span]
    )
    inputs = {split: Rows(train, drawn == split) for split in SPLITS}
    for split, table in tables.items():
        if split != "train":
            inputs[split] = Rows(table, np.ones(len(table.span), dtype=bool))
    held_out = []
    if train.labels is not None:
        labels = train.labels[train.span.start : train.span.stop]
        trained = set(np.unique(labels[inputs["train"].chosen]))
        held_out = [name for number, name in enumerate(names) if number not in trained]
    prompts = templates(template_set) if template_set else ()
    return Source(inputs, RowReader(names, prompts, max_side), names, held_out)
