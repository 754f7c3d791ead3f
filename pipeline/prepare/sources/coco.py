"""The source `coco`: folders of images, with captions and boxes in COCO's JSON files.

Images have no label, as most show objects of several classes. Boxes, where an instances file is
given, are stored as `objects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdeov.errors import DataError
from pipeline.artifacts.tables import read_json_table
from pipeline.config.source_params import CocoParams, CocoPart
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.boxes import Boxes
from pipeline.prepare.readers.captions import caption_text
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split


def coco(path: Path, options: CocoParams, seed: int, max_image_side: int | None) -> Source:
    """Lists COCO's images. Validation takes its share of the training part by a hash of names.

    Args:
        path: Folder that holds images and annotations.
        options: Names of folders and files, and the share of validation.
        seed: Seed of the choice of validation images.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        DataError: A folder or file is missing or malformed.
    """
    splits: dict[str, list[ImageFile | Rejected]] = {"train": [], "val": [], "test": []}
    for split, part in (("train", options.train), ("test", options.test)):
        if not (path / part.images).is_dir():
            raise DataError(
                f"{path / part.images}: no such folder of images; check prepare.path and "
                f"prepare.coco.{split}.images"
            )
        for file in _read_part(path, part, f"prepare.coco.{split}"):
            share = options.val if split == "train" else 0.0
            chosen = hash_split(file.name, seed, val=share, test=0.0) if share else split
            splits[chosen].append(file)
    return image_files(path, splits, max_image_side, "prepare.path")


def _read_part(path: Path, part: CocoPart, option: str) -> Iterator[ImageFile | Rejected]:
    """The images of the captions file, in its order."""
    table = path / part.captions
    values = read_json_table(table, f"{option}.captions")
    boxes = _read_boxes(path / part.instances, f"{option}.instances") if part.instances else None
    try:
        captions: dict[int, list[str]] = {}
        for annotation in values["annotations"]:
            text = caption_text(annotation["caption"])
            captions.setdefault(annotation["image_id"], []).append(text)
        names: set[str] = set()
        for image in values["images"]:
            name = f"{part.images}/{image['file_name']}"
            if name in names:
                yield Rejected(name, f"listed twice in {table.name}")
                continue
            names.add(name)
            texts = captions.pop(image["id"], [])
            if boxes is not None and image["id"] not in boxes:
                yield Rejected(name, f"no entry in {part.instances}")
                continue
            yield ImageFile(name, texts, boxes=boxes[image["id"]] if boxes else None)
        for number in captions:
            yield Rejected(f"{table.name}, image {number}", "captions of an image not listed")
    except (KeyError, TypeError) as error:
        raise _malformed(table, "captions", error, f"{option}.captions") from error


def _read_boxes(table: Path, option: str) -> dict[int, Boxes]:
    """The objects of each image, by its id."""
    # outlines are most of the file and are not used
    values = read_json_table(table, option, without="segmentation")
    try:
        classes = {category["id"]: str(category["name"]) for category in values["categories"]}
        boxes = {i["id"]: Boxes(int(i["width"]), int(i["height"])) for i in values["images"]}
        for annotation in values["annotations"]:
            left, top, width, height = map(float, annotation["bbox"])
            name, crowd = classes[annotation["category_id"]], bool(annotation.get("iscrowd"))
            boxes[annotation["image_id"]].objects.append((name, left, top, width, height, crowd))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(table, "instances", error, option) from error
    return boxes


def _malformed(table: Path, kind: str, error: Exception, option: str) -> DataError:
    problem = f"no {error}" if isinstance(error, KeyError) else str(error)
    return DataError(f"{table}: not COCO's format of {kind} ({problem}); check {option}")
