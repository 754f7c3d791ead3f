"""The source `coco`: folders of images, with captions and boxes in COCO's JSON files.

Images have no label, as most show objects of several classes. Boxes, where an instances file is
given, are stored as `objects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.entries import caption_field, id_field, read_entries
from pipeline.artifacts.tables import read_json_table
from pipeline.artifacts.texts import file_name
from pipeline.config.source_params import CocoParams, CocoPart
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split, name_within
from pipeline.prepare.sources.coco_instances import (
    Annotated,
    Id,
    Instances,
    image_name,
    read_instances,
    reading,
)
from pipeline.prepare.sources.object_classes import choose_objects, warn_of_boxes

NUM_TRIED = 1000  # images of which one must exist


def coco(path: Path, options: CocoParams, seed: int, max_image_side: int | None) -> Source:
    """Lists COCO's images. Validation takes its share of the training part by a hash of names.

    Args:
        path: Folder that holds images and annotations.
        options: Names of folders and files, and the share of validation.
        seed: Seed of the choice of validation images.
        max_image_side: See `pipeline.prepare.images.decode_image`.

    Raises:
        ConfigError: `held_out_objects` does not fit the categories.
        DataError: A folder or file is missing or malformed.
    """
    splits: dict[str, list[ImageFile | Rejected]] = {"train": [], "val": [], "test": []}
    tables: list[Instances] = []
    for split, part in (("train", options.train), ("test", options.test)):
        if not (path / part.images).is_dir():
            raise DataError(
                f"{path / part.images}: no such folder of images; check prepare.path and "
                f"prepare.coco.{split}.images"
            )
        objects = None
        if part.instances:
            option = f"prepare.coco.{split}.instances"
            tables.append(objects := read_instances(path / part.instances, option))
        files = list(_read_part(path, part, objects, f"prepare.coco.{split}"))
        _check_folder(path, files, part, f"prepare.coco.{split}.images")
        for file in files:
            drawn = split == "train"
            chosen = hash_split(file.name, seed, options.val, 0.0) if drawn else split
            splits[chosen].append(file)
    source = image_files(path, splits, max_image_side, "prepare.path")
    if not tables:
        return source
    classes, held_out = choose_objects(tables, options.held_out_objects)
    warn_of_boxes(splits, classes, held_out)
    return replace(source, object_classes=classes, held_out_objects=held_out)


def _check_folder(
    path: Path, files: list[ImageFile | Rejected], part: CocoPart, option: str
) -> None:
    """Compares a file of annotations with the folder of its images.

    Raises:
        DataError: None of many images lies there, so the images of this file are elsewhere.
    """
    names = [file.name for file in files if isinstance(file, ImageFile)][:NUM_TRIED]
    if len(names) > 1 and not any((path / name).is_file() for name in names):
        raise DataError(
            f"{path / part.images}: none of {len(names)} images that "
            f"{part.captions or part.instances} lists is there, such as {names[0]}; check {option}"
        )


def _read_part(
    path: Path, part: CocoPart, objects: Instances | None, option: str
) -> Iterator[ImageFile | Rejected]:
    """The images of the captions file, in its order; of the instances file where there is none."""
    captions = None
    if part.captions is not None:
        table = path / part.captions
        with reading(table, "captions", f"{option}.captions"):
            values = read_json_table(table, f"{option}.captions")
            captions = _read_captions(values, table.name)
            images, strays = read_entries(values, "images", _image)
            captions.add_strays(table.name, "images", strays)
        if objects is not None:
            objects.warn_of_others({number for number, _ in images}, table.name)
    else:
        table = path / str(part.instances)
        images = [] if objects is None else objects.images
    names_by_id: dict[Id, set[str]] = {}
    for number, raw in images:
        names_by_id.setdefault(number, set()).add(_name(path, part, raw))
    names: set[str] = set()
    for number, raw in images:
        name = _name(path, part, raw)
        problem = None if captions is None else captions.problems.get(number)
        if name in names:
            problem = f"listed twice in {table.name}"
        elif len(names_by_id[number]) > 1:
            problem = f"several images have its id {number} in {table.name}"
        elif objects is not None and problem is None:
            problem = _problem(objects, number, raw, str(part.instances))
        names.add(name)
        if problem is not None:
            yield Rejected(name, problem)
            continue
        boxes = None if objects is None else objects.found[number].boxes
        texts = None if captions is None else captions.found.get(number, [])
        yield ImageFile(name, texts, boxes=boxes)
    listed = names_by_id.keys()
    if captions is not None:
        for number in [*captions.found, *captions.problems]:
            if number not in listed:
                reason = captions.problems.get(number, "captions of an image not listed")
                yield Rejected(f"{table.name}, image {number}", reason)
        yield from captions.strays
    if objects is not None:
        yield from objects.strays


def _name(path: Path, part: CocoPart, raw: str) -> str:
    name = name_within(path / part.images, raw)
    return name if name.startswith("/") else file_name(f"{part.images}/{name}")


def _problem(objects: Annotated, number: Id, raw: str, table: str) -> str | None:
    """Why an image of the captions file has no boxes."""
    if number in objects.problems:
        return objects.problems[number]
    if number not in objects.found:
        return f"no entry in {table}"
    other = objects.found[number].name
    if other is not None and Path(file_name(other)).name != Path(file_name(raw)).name:
        return f"another image, {other}, has its id {number} in {table}"
    return None


def _read_captions(values: dict[str, Any], table: str) -> Annotated:
    result = Annotated()
    found, strays = read_entries(values, "annotations", _caption)
    for number, caption in found:
        result.found.setdefault(number, []).append(caption)
    result.add_strays(table, "annotations", strays)
    return result


def _caption(entry: Any) -> tuple[Id, str]:
    return id_field(entry, "image_id"), caption_field(entry, "caption")


def _image(entry: Any) -> tuple[Id, str]:
    return id_field(entry, "id"), image_name(entry)
