"""The format of teacher shards.

A sample has three members: `fp16`, the raw little-endian block of unit embeddings [views +
regions + captions, dim]; `views`, the raw little-endian uint16 parameters [views + regions, 9]; and
`crc`, two little-endian uint32 checksums, of the image sample that was embedded and of this sample.
Raw blocks are parsed without a copy and without a pickle.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdeov.data.views import View

UNIT = 1e-2  # how far from 1 the length of a half-precision unit vector may be


@dataclass(frozen=True)
class PairedSample:
    """An image with the teacher's embeddings of it.

    Attributes:
        key: Of the sample.
        source: Name of the image in its source.
        jpeg: The encoded image.
        label: Class number, or None.
        captions: Texts, in the order of `text_embeddings`; none where they have no embeddings.
        views: The views that the teacher embedded; none where it has no embeddings of this split.
        view_embeddings: float16 [views, D], unit length.
        text_embeddings: float16 [captions, D], unit length.
        regions: The regions that the teacher embedded.
        region_embeddings: float16 [regions, D], unit length.
        objects: The annotated objects, each with `name` and `box`.
    """

    key: str
    source: str
    jpeg: bytes
    label: int | None
    captions: list[str]
    views: list[View]
    view_embeddings: np.ndarray
    text_embeddings: np.ndarray
    regions: list[View]
    region_embeddings: np.ndarray
    objects: list[dict[str, Any]]


def teacher_members(
    image: dict[str, Any], embeddings: np.ndarray, views: list[View]
) -> dict[str, Any]:
    """A sample of a teacher shard.

    Args:
        image: The sample of the image shard that was embedded.
        embeddings: Unit vectors [views + regions + captions, D].
        views: The views and regions that the teacher embedded.
    """
    block = embeddings.astype("<f2").tobytes()
    parameters = np.array([view.to_ints() for view in views], dtype="<u2").tobytes()
    checksums = np.array([image_crc(image), crc32_of(block, parameters)], dtype="<u4")
    return {
        "__key__": image["__key__"],
        "fp16": block,
        "views": parameters,
        "crc": checksums.tobytes(),
    }


def first_not_unit(embeddings: np.ndarray) -> tuple[int, float] | None:
    """The first row of [N, D] that is no unit vector, and its length; None where all are."""
    lengths = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT))
    return (int(wrong[0]), float(lengths[wrong[0]])) if len(wrong) else None


def image_crc(image: dict[str, Any]) -> int:
    """The checksum of a sample of an image shard."""
    return crc32_of(image["jpg"], image["json"])


def crc32_of(*parts: bytes) -> int:
    """CRC-32 of the parts, one after the other."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value
