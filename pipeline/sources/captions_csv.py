"""The `captions_csv` source: a folder of pictures, and a table with one row a caption."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.dataset import SPLITS
from pipeline.source_params import CaptionsCsvParams
from pipeline.sources.base import Rejected, Source
from pipeline.sources.naming import hash_split
from pipeline.sources.picture_files import PictureFile, picture_files
from pipeline.sources.tables import reading


def captions_csv(path: Path, options: CaptionsCsvParams, seed: int, max_side: int | None) -> Source:
    """Lists pictures with captions from a CSV file.

    Every picture falls into a split by a hash of its name and the seed, so adding pictures moves no
    other one.

    Args:
        path: Folder that holds table and pictures.
        options: Names of folder, table and columns, and the shares of validation and test.
        seed: Picks the splits.
        max_side: See `pipeline.pictures.decode_picture`.

    Raises:
        KdeovError: Folder, table or columns are missing, or the table is no UTF-8.
    """
    captions: dict[str, list[str]] = {}
    labels: dict[str, str | None] = {}
    for name, caption, label in _rows(path / options.csv, options):
        captions.setdefault(name, []).append(caption)
        labels[name] = label
    splits: dict[str, list[PictureFile | Rejected]] = {split: [] for split in SPLITS}
    for name, texts in captions.items():  # in the order in which the table first names them
        label = labels[name]
        splits[hash_split(name, seed, options.val, options.test)].append(
            Rejected(name, "no label")
            if options.label_column and label is None
            else PictureFile(name, texts, label)
        )
    where = "prepare.path and prepare.captions_csv.images"
    return picture_files(path / options.images, splits, max_side, where)


def _rows(table: Path, o: CaptionsCsvParams) -> Iterator[tuple[str, str, str | None]]:
    """Name of the picture, caption and label, if any, of each row."""
    columns = [o.image_column, o.caption_column, *([o.label_column] if o.label_column else [])]
    option = "prepare.path and prepare.captions_csv.csv"
    with reading(table, option), open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise KdeovError(
                    f"{table}: no column {missing[0]!r}, its columns are "
                    f"{', '.join(reader.fieldnames or ['none'])}; name them in "
                    "prepare.captions_csv"
                )
            for row in reader:
                name = (row[o.image_column] or "").strip()
                label = (row[o.label_column] or "").strip() if o.label_column else ""
                yield name, row[o.caption_column] or "", label or None
        except csv.Error as error:
            raise KdeovError(
                f"{table}: line {reader.reader.line_num}: {error}; mend the quotes"
            ) from error
