"""COCO's instances file, and LVIS's: the annotated objects of each image, and their classes."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.entries import (
    MalformedError,
    field,
    id_field,
    int_field,
    read_entries,
    shown,
    text_field,
)
from pipeline.artifacts.tables import read_json_table
from pipeline.artifacts.texts import class_name
from pipeline.prepare.readers.base import Rejected
from pipeline.prepare.readers.boxes import Boxes

logger = logging.getLogger(__name__)

Id = int | float | str
Object = tuple[str, float, float, float, float, bool]  # as `Boxes` holds it
ID_KEYS = {"images": "id", "annotations": "image_id"}
MIN_OUTSIDE = 3  # boxes outside their images that are no slips of a pen
OUTSIDE_SHARE = 0.1
# of iscrowd, also as a text, which is true whatever it says
CROWD = {"none": False, "0": False, "false": False, "1": True, "true": True}


@dataclass
class Annotated:
    """The entries of a file about each image.

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


@dataclass(frozen=True)
class Listed:
    """An image of the instances file, with its name where it has one."""

    name: str | None
    boxes: Boxes


@dataclass
class Instances(Annotated):
    """The annotated objects of each image, as `Listed`.

    Attributes:
        classes: Names of the categories, each once, in the order of the file.
        images: Id and name of each image that has a name, in the order of the file.
        frequencies: LVIS's frequency of each class that has one: r, c or f.
    """

    classes: list[str] = dataclasses.field(default_factory=list)
    images: list[tuple[Id, str]] = dataclasses.field(default_factory=list)
    frequencies: dict[str, str] = dataclasses.field(default_factory=dict)

    def warn_of_others(self, numbers: set[Id], table: str) -> None:
        """Counts the images that another table does not list, and which are not read."""
        if others := [number for number in self.found if number not in numbers]:
            logger.warning(
                "%d of %d images with boxes are not in %s and are left out, such as id %s",
                len(others), len(self.found), table, others[0],
            )  # fmt: skip


def read_instances(table: Path, option: str) -> Instances:
    """Reads an instances file.

    Args:
        table: The file.
        option: The keys of `params.yaml` that name it.

    Raises:
        DataError: It is missing or malformed, or its boxes are in another format than COCO's.
    """
    result = Instances()
    with reading(table, "instances", option):
        # outlines are most of the file and are not used
        values = read_json_table(table, option, without="segmentation")
        categories = _read_categories(values, table.name, result)
        names = {number: name for number, (name, _) in categories.items()}
        images, strays = read_entries(values, "images", lambda entry: _image(entry, names))
        result.add_strays(table.name, "images", strays)
        for number, image in images:
            if image.name is not None:
                result.images.append((number, image.name))
            if result.found.setdefault(number, image) != image:
                result.problems[number] = f"several images have its id {number} in {table.name}"
        found, strays = read_entries(values, "annotations", lambda entry: _box(entry, names))
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
    _check_format(table, option, [image.boxes for image in result.found.values()])
    return result


def _read_categories(
    values: dict[str, Any], table: str, result: Instances
) -> dict[Id, tuple[str, str | None]]:
    """Name and frequency of each category. Those of one name are one class, with a warning."""
    found: dict[Id, tuple[str, str | None]] = {}
    entries, strays = read_entries(values, "categories", _category)
    for position, _, reason in strays:
        result.strays.append(Rejected(f"{table}, categories {position}", reason))
    doubles = []
    for number, name, frequency in entries:
        if found.setdefault(number, (name, frequency))[0] != name:
            raise MalformedError(f"category {number} is both {found[number][0]!r} and {name!r}")
    for number, (name, frequency) in found.items():
        if name in result.classes:
            doubles.append(f"{name} (category {number})")
        else:
            result.classes.append(name)
        if frequency is not None:
            result.frequencies.setdefault(name, frequency)
    if doubles:
        logger.warning(
            "%s: %d categories have the name of another, and are one class with it: %s",
            table, len(doubles), ", ".join(doubles[:3]) + (", ..." if len(doubles) > 3 else ""),
        )  # fmt: skip
    return found


def _check_format(table: Path, option: str, images: list[Boxes]) -> None:
    """Compares two readings of the boxes.

    Raises:
        DataError: Many end outside their images as [left, top, width, height], and none does as
            [left, top, right, bottom], with which all agree.
    """
    total = outside = shares = 0
    fits = True
    for image in images:
        for _, left, top, wide, high, _ in image.objects:
            if not all(map(math.isfinite, (left, top, wide, high))):
                continue
            total += 1
            shares += max(left + wide, top + high) <= 1
            outside += left + wide > image.width + 1 or top + high > image.height + 1
            fits &= left <= wide <= image.width + 1 and top <= high <= image.height + 1
    if total and shares == total:
        raise DataError(
            f"{table}: all {total} boxes lie within the first pixel of their images, as shares of "
            f"width and height do; write them in pixels, or check {option}"
        )
    if fits and outside >= max(MIN_OUTSIDE, OUTSIDE_SHARE * total):
        raise DataError(
            f"{table}: {outside} of {total} boxes end outside their images when read as "
            "[left, top, width, height], as COCO has them, and none when read as [left, top, "
            f"right, bottom]; write right - left and bottom - top instead, or check {option}"
        )


def _image(entry: Any, classes: dict[Id, str]) -> tuple[Id, Listed]:
    number = id_field(entry, "id")
    name = image_name(entry) if entry.keys() & {"file_name", "coco_url"} else None
    boxes = Boxes(
        int_field(entry, "width"),
        int_field(entry, "height"),
        absent=_names(entry, "neg_category_ids", classes),
        incomplete=_names(entry, "not_exhaustive_category_ids", classes),
    )
    return number, Listed(name, boxes)


def image_name(entry: Any) -> str:
    """The file name of an image, or as in LVIS, the last folder and the name of its `coco_url`.

    Raises:
        MalformedError: It has neither.
    """
    if isinstance(entry, dict) and "file_name" not in entry and "coco_url" in entry:
        return "/".join(text_field(entry, "coco_url").split("/")[-2:])
    return text_field(entry, "file_name")


def _names(entry: Any, key: str, classes: dict[Id, str]) -> list[str] | None:
    """The classes that an image lists under a key of LVIS; None where it has no such key."""
    if key not in entry:
        return None
    numbers = entry[key]
    if not isinstance(numbers, list) or not all(isinstance(n, (int, str)) for n in numbers):
        raise MalformedError(f"the {key} {shown(numbers)} is not a list of categories")
    if unknown := [n for n in numbers if n not in classes]:
        raise MalformedError(f"category {unknown[0]} of its {key} is not listed")
    return [classes[n] for n in numbers]


def _category(entry: Any) -> tuple[Id, str, str | None]:
    name = class_name(str(field(entry, "name")))
    frequency = entry.get("frequency")
    if frequency not in (None, "r", "c", "f"):
        raise MalformedError(f"the frequency {shown(frequency)} is not r, c or f")
    if not name:
        raise MalformedError("a category without a visible name")
    return id_field(entry, "id"), name, frequency


def _box(entry: Any, classes: dict[Id, str]) -> tuple[Id, Object]:
    """The image of an annotation, and its object."""
    category = id_field(entry, "category_id")
    if category not in classes:
        raise MalformedError(f"category {category} is not listed")
    bbox = field(entry, "bbox")
    try:
        if not isinstance(bbox, list):
            raise TypeError
        left, top, width, height = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        reason = f"the box {shown(bbox)} is not [left, top, width, height]"
        raise MalformedError(reason) from None
    crowd = CROWD.get(str(entry.get("iscrowd")).casefold())
    if crowd is None:
        raise MalformedError(f"its iscrowd {shown(entry['iscrowd'])} is not 0 or 1")
    return id_field(entry, "image_id"), (classes[category], left, top, width, height, crowd)


@contextmanager
def reading(table: Path, kind: str, option: str) -> Iterator[None]:
    """Reports malformed files.

    Raises:
        DataError: The body raised `MalformedError`.
    """
    try:
        yield
    except MalformedError as error:
        raise DataError(f"{table}: not COCO's format of {kind} ({error}); check {option}") from None
