"""The annotated objects of the test images, from their shards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdeov.data.rendering import StoredImage
from kdeov.errors import DataError
from kdeov.evaluation.detection import Objects
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import sample_json


@dataclass(frozen=True)
class Annotated:
    """The objects of a split, and what was left out of them.

    Attributes:
        objects: Objects of the object classes, whose numbers are places in
            `Dataset.object_classes`.
        keys: The key of each image.
        other_classes: Boxes of names that are no object classes; they are not evaluated.
        no_area: Boxes of no area, which nothing can be matched to.
        bare: Images without objects. What is found in them counts as wrong.
    """

    objects: Objects
    keys: list[str]
    other_classes: int
    no_area: int
    bare: int

    @property
    def plain(self) -> np.ndarray:
        """Rows of the objects that are no crowds."""
        return np.flatnonzero(~self.objects.crowd)


def read_objects(dataset: Dataset, images: Path, storage: str | None, split: str) -> Annotated:
    """Reads the objects of a split.

    Args:
        dataset: The data set.
        images: Folder of the image shards of all splits.
        storage: Where the shards are (see `ShardFolder`).
        split: The split.

    Raises:
        DataError: Shards are missing or damaged, or a box is none.
    """
    numbers = {name: number for number, name in enumerate(dataset.object_classes)}
    keys: list[str] = []
    rows: list[tuple[int, int, bool, list[float]]] = []
    absent: dict[int, set[int]] = {}
    incomplete: dict[int, set[int]] = {}
    other = flat = bare = 0
    for key, _, values in _samples(images, storage, split):
        image = len(keys)
        keys.append(key)
        before = len(rows)
        for thing in values.get("objects", []):
            box = _box(thing, key, images / split)
            if thing["name"] not in numbers:
                other += 1
            elif box[0] >= box[2] or box[1] >= box[3]:
                flat += 1
            else:
                rows.append((image, numbers[thing["name"]], bool(thing.get("crowd")), box))
        bare += len(rows) == before
        for name, found in (("absent", absent), ("incomplete", incomplete)):
            if name in values:
                found[image] = {numbers[n] for n in values[name] if n in numbers}
    owners, classes, crowd, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    objects = Objects(
        len(keys),
        np.array(owners, int),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, int),
        np.array(crowd, bool),
        absent or None,
        incomplete,
    )
    return Annotated(objects, keys, other, flat, bare)


def read_images(images: Path, storage: str | None, split: str) -> Iterator[Image.Image]:
    """The images of a split in RGB, in the order of `read_objects`.

    Raises:
        DataError: Shards are missing or damaged.
    """
    for _, jpeg, _ in _samples(images, storage, split):
        yield Image.open(io.BytesIO(jpeg)).convert("RGB")


def read_stored_images(images: Path, storage: str | None, split: str) -> Iterator[StoredImage]:
    """The same images as the shards have them (see `kdeov.data.rendering`)."""
    for _, jpeg, _ in _samples(images, storage, split):
        yield StoredImage(jpeg)


def _samples(
    images: Path, storage: str | None, split: str
) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Key, encoded image and description of each image."""
    folder = ShardFolder(images, storage) / split
    for shard in folder.manifest().shards:
        for _, sample in folder.read(shard):
            yield sample["__key__"], sample["jpg"], sample_json(sample)


def _box(thing: Any, key: str, where: Path) -> list[float]:
    try:
        box = [float(value) for value in thing["box"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: {key} has an object without a box ({error}); run `dvc repro -f prepare`"
        ) from error
    if len(box) != 4 or not np.isfinite(box).all():
        raise DataError(
            f"{where}: {key} has the box {box}, not left, top, right and bottom; run `dvc repro -f "
            "prepare`"
        )
    return box
