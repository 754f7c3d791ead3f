"""Reads one image for an index: its digest, its date and, where it is new, its pixels."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kdeov.errors import DataError, one_line
from kdeov.runtime.detections import Regions, box_iou
from kdeov.runtime.images import FORMATS, converted_image
from pipeline.inference.models import ExportedModel, InferenceModel
from pipeline.search.index import REGIONS

COMPARED = 100  # proposals of an image, of which those that do not overlap are kept
MAX_OVERLAP = 0.5


@dataclass(frozen=True)
class Item:
    """An image to index.

    Attributes:
        path: In the index.
        image: The file, or its bytes.
        bytes: Size.
        changed_ns: Nanoseconds of the last change; 0 where it has none.
        part: Number of its shard.
    """

    path: str
    image: Path | bytes
    bytes: int
    changed_ns: int = 0
    part: int | None = None

    @property
    def moment(self) -> str | None:
        """Local time of the last change, ISO 8601."""
        if not self.changed_ns:
            return None
        with contextlib.suppress(OverflowError, ValueError, OSError):
            changed = datetime.datetime.fromtimestamp(self.changed_ns / 1e9)
            return changed.isoformat(timespec="seconds")
        return None


@dataclass(frozen=True)
class Read:
    """An image as it was read.

    Attributes:
        item: Which.
        sha256: Of its bytes.
        date: Of its EXIF data, ISO 8601; None without.
        pixels: Its centred square, uint8 [3, S, S]; None where the index knows the bytes.
        regions: Boxes int32 [REGIONS, 4] and their embeddings float32 [REGIONS, D]; None where none
            are wanted.
    """

    item: Item
    sha256: bytes
    date: str | None
    pixels: np.ndarray | None
    regions: tuple[np.ndarray, np.ndarray] | None = None


def read_item(
    item: Item,
    model: InferenceModel,
    detector: ExportedModel | None,
    is_known: Callable[[bytes], bool],
) -> Read:
    """Reads an image; called in threads.

    Args:
        item: Which.
        model: Preprocesses it.
        detector: Proposes regions; None leaves them out.
        is_known: Whether the index has a row of an image with these bytes.

    Raises:
        DataError: It cannot be read, or changed meanwhile.
    """
    where = one_line(str(item.image)) if isinstance(item.image, Path) else item.path
    try:
        if isinstance(item.image, bytes):
            sha256 = hashlib.sha256(item.image).digest()
        else:
            with open(item.image, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from error
    known = is_known(sha256)

    def convert(image: Image.Image) -> Read:
        pixels = None if known else model.preprocess(image)
        regions = None
        if detector is not None and not known:
            regions = top_regions(detector.propose(image), model.embed_dim)
        return Read(item, sha256, date_of(image), pixels, regions)

    if isinstance(item.image, bytes):
        try:
            with Image.open(io.BytesIO(item.image), formats=FORMATS) as image:
                return converted_image(image, convert)
        except (OSError, DataError) as error:
            raise DataError(f"{where}: {error}") from error
    read = converted_image(item.image, convert)
    _require_unchanged(item, where)
    return read


def date_of(image: Image.Image) -> str | None:
    """When an image was taken by its EXIF data, ISO 8601 without a zone; None where they do not
    say.
    """
    with contextlib.suppress(Exception):  # Pillow lets errors of its parsers through
        exif = image.getexif()
        taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        text = str(taken or exif.get(ExifTags.Base.DateTime) or "").strip("\0 ")
        return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()
    return None


def top_regions(regions: Regions, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The regions of an image that are objects most likely and do not overlap much.

    Args:
        regions: Its proposals.
        dim: Width of their embeddings, D.

    Returns:
        Boxes int32 [REGIONS, 4], pixels of the upright image, and embeddings float32 [REGIONS, D];
        those that the image does not have are 0 and NaN.
    """
    boxes = np.zeros((REGIONS, 4), np.int32)
    embeddings = np.full((REGIONS, dim), np.nan, np.float32)
    overlaps = box_iou(regions.boxes[:COMPARED]) > MAX_OVERLAP
    kept: list[int] = []
    for number in range(len(overlaps)):
        if len(kept) == REGIONS:
            break
        if not overlaps[number, kept].any():
            kept.append(number)
    for place, number in enumerate(kept):
        left, top, right, bottom = regions.boxes[number].tolist()
        boxes[place] = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        embeddings[place] = regions.embeddings[number]
    return boxes, embeddings


def _require_unchanged(item: Item, where: str) -> None:
    try:
        status = os.stat(item.image)  # noqa: PTH116 - of a path or of bytes, for mypy
    except OSError as error:
        raise DataError(f"{where}: gone while it was read ({error.strerror})") from error
    if (status.st_size, status.st_mtime_ns) != (item.bytes, item.changed_ns):
        raise DataError(f"{where}: changed while it was read; index again")
