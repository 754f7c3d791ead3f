"""The source `captions_csv`: a folder of images, and a table (CSV, TSV or Parquet) with one row a
caption.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.tables import table_rows
from pipeline.artifacts.texts import class_name
from pipeline.config.source_params import CaptionsCsvParams
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split, name_within

MISSING = {"nan", "NaN", "None", "null", "NULL", "<NA>"}  # as pandas and databases write it


def captions_csv(
    path: Path, options: CaptionsCsvParams, seed: int, max_image_side: int | None
) -> Source:
    """Lists images with captions from a table.

    The split of an image follows from a hash of its name and the seed, so adding images moves no
    other.

    Args:
        path: Folder that holds table and images.
        options: Names of folder, table and columns, and the shares of validation and test.
        seed: Seed of the splits.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        KdeovError: Folder, table or columns are missing, or the table is not UTF-8.
    """
    captions: dict[str, list[str]] = {}
    labels: dict[str, set[str]] = {}
    columns = [options.image_column, options.caption_column]
    if options.label_column:
        columns.append(options.label_column)
    table_option, section = "prepare.path and prepare.captions_csv.table", "prepare.captions_csv"
    images = path / options.images
    for name, caption, *rest in table_rows(path / options.table, columns, table_option, section):
        name = name_within(images, name.strip())
        captions.setdefault(name, []).append(_present(caption))
        known = (class_name(_present(cell)) for cell in rest)
        labels.setdefault(name, set()).update(filter(None, known))
    splits: dict[str, list[ImageFile | Rejected]] = {split: [] for split in SPLITS}
    for name, texts in captions.items():  # in the order in which the table first names them
        entry: ImageFile | Rejected = ImageFile(name, texts)
        if options.label_column:
            few = sorted(labels[name])
            entry = (
                ImageFile(name, texts, few[0])
                if len(few) == 1
                else Rejected(name, f"several labels ({', '.join(few)})" if few else "no label")
            )
        splits[hash_split(name, seed, options.val, options.test)].append(entry)
    where = "prepare.path and prepare.captions_csv.images"
    return image_files(images, splits, max_image_side, where)


def _present(cell: str) -> str:
    """A cell, or an empty one where a program wrote that there is no value."""
    return "" if cell.strip() in MISSING else cell
