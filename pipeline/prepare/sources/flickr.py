"""The source `flickr`: a folder of images with the captions of Flickr8k or Flickr30k.

The captions are a token file (`dog.jpg#0<tab>A dog .`), or Karpathy's JSON, which names splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.tables import read_json_table, reading
from pipeline.config.source_params import FlickrParams
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.captions import caption_text
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split

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
    splits: dict[str, list[ImageFile | Rejected]] = {split: [] for split in SPLITS}
    for file, split in read(table):
        if options.shares is not None:
            split = hash_split(file.name, seed, options.shares.val, options.shares.test)
        elif split is None:
            raise ConfigError(
                f"{table}: names no splits; set prepare.flickr.shares, say {{val: 0.1, test: 0.1}}"
            )
        splits[split].append(file)
    where = "prepare.path and prepare.flickr.images"
    return image_files(path / options.images, splits, max_image_side, where)


def _tokens(table: Path) -> Iterator[tuple[ImageFile | Rejected, str | None]]:
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
            captions_by_name.setdefault(match["name"], []).append(match["caption"])
    for name, captions in captions_by_name.items():
        yield ImageFile(name, captions), None


def _karpathy(table: Path) -> Iterator[tuple[ImageFile | Rejected, str | None]]:
    names: set[str] = set()
    try:
        for image in read_json_table(table, OPTION)["images"]:
            name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
            captions = [caption_text(sentence["raw"]) for sentence in image["sentences"]]
            split = KARPATHY[image["split"]]
            if name in names:
                yield Rejected(name, f"listed twice in {table.name}"), split
            else:
                yield ImageFile(name, captions), split
            names.add(name)
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{table}: not Karpathy's format ({problem}); check {OPTION}") from error
