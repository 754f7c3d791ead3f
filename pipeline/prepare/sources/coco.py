"""The source `coco`: folders of images, with captions and boxes in COCO's JSON files.

Images have no label, as most show objects of several classes. Boxes, where an instances file is
given, are stored as `objects`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.entries import (
    MalformedError,
    caption_field,
    field,
    id_field,
    int_field,
    read_entries,
    shown,
    text_field,
)
from pipeline.artifacts.tables import read_json_table
from pipeline.artifacts.texts import class_name, file_name
from pipeline.config.source_params import CocoParams, CocoPart
from pipeline.prepare.readers.base import Rejected, Source
from pipeline.prepare.readers.boxes import Boxes
from pipeline.prepare.readers.image_files import ImageFile, image_files
from pipeline.prepare.readers.naming import hash_split, name_within

Id = int | float | str
ID_KEYS = {"images": "id", "annotations": "image_id"}


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
            drawn = split == "train"
            chosen = hash_split(file.name, seed, options.val, 0.0) if drawn else split
            splits[chosen].append(file)
    return image_files(path, splits, max_image_side, "prepare.path")


@dataclass
class Annotated:
    """What a file says of its images.

    Attributes:
        found: By id.
        problems: Why an image cannot be used, by id.
        strays: Entries of no image.
    """

    found: dict[Id, Any] = dataclasses.field(default_factory=dict)
    problems: dict[Id, str] = dataclasses.field(default_factory=dict)
    strays: list[Rejected] = dataclasses.field(default_factory=list)

    def add_strays(self, table: str, kind: str, strays: list[tuple[int, Any, str]]) -> None:
        """Adds malformed entries, each to its image where it names one."""
        for number, entry, reason in strays:
            try:
                self.problems[id_field(entry, ID_KEYS[kind])] = f"{kind} {number}: {reason}"
            except MalformedError:
                self.strays.append(Rejected(f"{table}, {kind} {number}", reason))


def _read_part(path: Path, part: CocoPart, option: str) -> Iterator[ImageFile | Rejected]:
    """The images of the captions file, in its order."""
    table = path / part.captions
    with _reading(table, "captions", f"{option}.captions"):
        values = read_json_table(table, f"{option}.captions")
        captions = _read_captions(values, table.name)
        images, strays = read_entries(values, "images", _image)
        captions.add_strays(table.name, "images", strays)
    objects = None
    if part.instances:
        objects = _read_objects(path / part.instances, f"{option}.instances")
    names_by_id: dict[Id, set[str]] = {}
    for number, raw in images:
        names_by_id.setdefault(number, set()).add(_name(path, part, raw))
    names: set[str] = set()
    for number, raw in images:
        name = _name(path, part, raw)
        problem = captions.problems.get(number)
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
        yield ImageFile(name, captions.found.get(number, []), boxes=boxes)
    listed = names_by_id.keys()
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


@dataclass(frozen=True)
class Listed:
    """An image of the instances file, with its name where it has one."""

    name: str | None
    boxes: Boxes


def _read_objects(table: Path, option: str) -> Annotated:
    """The annotated objects of each image, as `Listed`."""
    result = Annotated()
    with _reading(table, "instances", option):
        # outlines are most of the file and are not used
        values = read_json_table(table, option, without="segmentation")
        classes = _read_categories(values)
        images, strays = read_entries(values, "images", _sized_image)
        result.add_strays(table.name, "images", strays)
        for number, image in images:
            if result.found.setdefault(number, image) != image:
                result.problems[number] = f"several images have its id {number} in {table.name}"
        found, strays = read_entries(values, "annotations", lambda entry: _box(entry, classes))
        result.add_strays(table.name, "annotations", strays)
    unknown = set()
    for number, box in found:
        if number in result.found:
            result.found[number].boxes.objects.append(box)
        elif number not in result.problems:
            unknown.add(number)
    unknown |= result.problems.keys() - result.found.keys()
    for number in sorted(unknown, key=str):
        reason = result.problems.get(number, "boxes of an image not listed")
        result.strays.append(Rejected(f"{table.name}, image {number}", reason))
    return result


def _read_categories(values: dict[str, Any]) -> dict[Id, str]:
    classes: dict[Id, str] = {}
    for number, name in read_entries(values, "categories", _category)[0]:
        if classes.setdefault(number, name) != name:
            raise MalformedError(f"category {number} is both {classes[number]!r} and {name!r}")
    return classes


def _caption(entry: Any) -> tuple[Id, str]:
    return id_field(entry, "image_id"), caption_field(entry, "caption")


def _image(entry: Any) -> tuple[Id, str]:
    return id_field(entry, "id"), text_field(entry, "file_name")


def _sized_image(entry: Any) -> tuple[Id, Listed]:
    number = id_field(entry, "id")
    name = text_field(entry, "file_name") if "file_name" in entry else None
    return number, Listed(name, Boxes(int_field(entry, "width"), int_field(entry, "height")))


def _category(entry: Any) -> tuple[Id, str]:
    return id_field(entry, "id"), class_name(str(field(entry, "name")))


def _box(
    entry: Any, classes: dict[Id, str]
) -> tuple[Id, tuple[str, float, float, float, float, bool]]:
    """The image of an annotation, and its object as `Boxes` holds it."""
    category = id_field(entry, "category_id")
    if category not in classes:
        raise MalformedError(f"category {category} is not listed")
    bbox = field(entry, "bbox")
    try:
        left, top, width, height = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        reason = f"the box {shown(bbox)} is not [left, top, width, height]"
        raise MalformedError(reason) from None
    crowd = bool(entry.get("iscrowd"))
    return id_field(entry, "image_id"), (classes[category], left, top, width, height, crowd)


@contextmanager
def _reading(table: Path, kind: str, option: str) -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        raise DataError(f"{table}: not COCO's format of {kind} ({error}); check {option}") from None
