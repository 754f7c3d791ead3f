"""The source `flickr`: a folder of images with the captions of Flickr8k or Flickr30k.

The captions are a token file (`dog.jpg#0<tab>A dog .`), or Karpathy's JSON, which names splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.entries import (
    MalformedError,
    caption_field,
    field,
    read_entries,
    text_field,
)
from pipeline.artifacts.tables import read_json_table, reading
from pipeline.config.source_params import FlickrParams
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split, name_within

TOKEN = re.compile(r"(?P<name>.+)#\d+\t(?P<caption>.*)")
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
OPTION = "prepare.path and prepare.flickr.captions"


def flickr(path: Path, options: FlickrParams, seed: int, max_image_side: int | None) -> Source:
    """Lists the images of Flickr8k or Flickr30k.

    Args:
        path: Folder that holds images and captions.
        options: Names of folder and file, and the shares of validation and test, which replace
            the splits of the file.
        seed: Seed of the splits by shares.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        ConfigError: The file names no splits and params give no shares.
        DataError: A folder or file is missing or malformed.
    """
    table = path / options.captions
    read = _karpathy if table.suffix == ".json" else _tokens
    images = path / options.images
    splits: dict[str, list[ImageFile | Rejected]] = {split: [] for split in SPLITS}
    for file, split in read(table, images):
        if options.shares is not None:
            split = hash_split(file.name, seed, options.shares.val, options.shares.test)
        elif split is None:
            raise ConfigError(
                f"{table}: names no splits; set prepare.flickr.shares, say {{val: 0.1, test: 0.1}}"
            )
        splits[split].append(file)
    where = "prepare.path and prepare.flickr.images"
    return image_files(images, splits, max_image_side, where)


def _tokens(table: Path, images: Path) -> Iterator[tuple[ImageFile | Rejected, str | None]]:
    captions_by_name: dict[str, list[str]] = {}
    with reading(table, OPTION), open(table, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            match = TOKEN.fullmatch(line.rstrip("\n"))
            if match is None:
                raise DataError(
                    f"{table}: line {number} is not `name#number<tab>caption`; check {OPTION}"
                )
            name = name_within(images, match["name"])
            captions_by_name.setdefault(name, []).append(match["caption"])
    for name, captions in captions_by_name.items():
        yield ImageFile(name, captions), None


def _karpathy(table: Path, images: Path) -> Iterator[tuple[ImageFile | Rejected, str | None]]:
    try:
        entries, strays = read_entries(read_json_table(table, OPTION), "images", _entry)
    except MalformedError as error:
        raise DataError(f"{table}: not Karpathy's format ({error}); check {OPTION}") from error
    names: set[str] = set()
    for raw, captions, split in entries:
        name = name_within(images, raw)
        if name in names:
            yield Rejected(name, f"listed twice in {table.name}"), split
        else:
            yield ImageFile(name, captions), split
        names.add(name)
    for number, entry, reason in strays:
        known = entry.get("filename") if isinstance(entry, dict) else None
        name = known if isinstance(known, str) else f"image {number}"
        yield Rejected(f"{table.name}, {name}", reason), "train"


def _entry(image: Any) -> tuple[str, list[str], str]:
    """Name, captions and split of an image."""
    name = text_field(image, "filename")
    if image.get("filepath"):
        name = f"{text_field(image, 'filepath')}/{name}"
    sentences = field(image, "sentences")
    if not isinstance(sentences, list):
        raise MalformedError("its sentences are no list")
    captions = [caption_field(sentence, "raw") for sentence in sentences]
    split = text_field(image, "split")
    if split not in KARPATHY:
        raise MalformedError(f"the split {split!a} is unknown")
    return name, captions, KARPATHY[split]
