"""The `captions_csv` source: a folder of pictures, and a table with one row a caption."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.params import CaptionsCsvParams
from pipeline.pictures import UnusablePicture, to_jpeg
from pipeline.sources.base import Rejected, Sample


@dataclass
class Picture:
    """One picture of the table: file name within the folder, captions, class name if any."""

    name: str
    captions: list[str] = field(default_factory=list)
    label: str | None = None


class CaptionsCsv:
    """Pictures with captions from a CSV file.

    Every picture falls into a split by a hash of its name and the seed, so adding pictures moves no
    other one.

    Args:
        path: Folder that holds table and pictures.
        options: Names of folder, table and columns, and the shares of validation and test.
        seed: Picks the splits.
        max_side: See `pipeline.pictures.to_jpeg`.

    Raises:
        KdeovError: Folder, table or columns are missing, or the table is no UTF-8.
    """

    def __init__(
        self, path: Path, options: CaptionsCsvParams, seed: int, max_side: int | None
    ) -> None:
        self.folder = path / options.images
        self.table = path / options.csv
        self.options = options
        self.seed = seed
        self.max_side = max_side
        self.held_out: list[str] = []
        if not self.folder.is_dir():
            raise KdeovError(
                f"{self.folder}: no such folder of pictures; check prepare.path and "
                "prepare.captions_csv.images"
            )
        self.pictures = self._read_table()
        self.classes = sorted({p.label for p in self.pictures.values() if p.label is not None})
        self._keys = _unique_keys(list(self.pictures))

    def inputs(self, split: str) -> Sequence[Picture]:
        return [p for p in self.pictures.values() if self._split(p.name) == split]

    def make(self, item: Picture) -> Sample | Rejected:
        captions = [" ".join(c.split()) for c in item.captions if c.strip()]
        if not captions:
            return Rejected(item.name, "no caption")
        if self.classes and item.label is None:
            return Rejected(item.name, "no label")
        if "\0" in item.name:
            return Rejected(item.name, "its name holds a null")
        path = self.folder / item.name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return Rejected(item.name, "lies outside the folder of pictures")
        try:
            jpeg = to_jpeg(path, self.max_side)
        except UnusablePicture as why:
            return Rejected(item.name, str(why))
        label = self.classes.index(item.label) if item.label is not None else None
        return Sample(self._keys[item.name], jpeg, captions, item.name, label)

    def _read_table(self) -> dict[str, Picture]:
        """Pictures in the order in which the table first names them."""
        o = self.options
        columns = [o.image_column, o.caption_column, *([o.label_column] if o.label_column else [])]
        pictures: dict[str, Picture] = {}
        try:
            with open(self.table, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                missing = [c for c in columns if c not in (reader.fieldnames or [])]
                if missing:
                    raise KdeovError(
                        f"{self.table}: no column {missing[0]!r}, its columns are "
                        f"{', '.join(reader.fieldnames or ['none'])}; name them in "
                        "prepare.captions_csv"
                    )
                for row in reader:
                    name = (row[o.image_column] or "").strip()
                    picture = pictures.setdefault(name, Picture(name))
                    picture.captions.append(row[o.caption_column] or "")
                    if o.label_column:
                        picture.label = (row[o.label_column] or "").strip() or None
        except UnicodeDecodeError as error:
            raise KdeovError(
                f"{self.table}: not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise KdeovError(
                f"{self.table}: line {reader.reader.line_num}: {error}; mend the quotes"
            ) from error
        except OSError as error:
            raise KdeovError(
                f"{self.table}: {error.strerror}; check prepare.path and prepare.captions_csv.csv"
            ) from error
        return pictures

    def _split(self, name: str) -> str:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        if position < self.options.test:
            return "test"
        return "val" if position < self.options.test + self.options.val else "train"


def _unique_keys(names: list[str]) -> dict[str, str]:
    """File names to keys; a name that is no key as it stands, or shares its stem, gets a hash
    behind it.
    """
    stems = [name.rsplit(".", 1)[0] for name in names]
    shared = (
        {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    )
    keys = {}
    for name, stem in zip(names, stems, strict=True):
        key = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
        if key != stem or not stem or stem in shared:
            key = f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        keys[name] = key
    return keys
