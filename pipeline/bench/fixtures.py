"""Inputs of the measurements: generated photographs, a teacher of random weights, and a cache of
random embeddings. Speed depends on none of their contents.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdeov.data.views import ViewPlan
from kdeov.teachers.clip import ClipTeacher
from kdeov.weights.clip import import_clip
from kdeov.weights.state_dict import write_tensors
from pipeline.artifacts.identity import write_teacher_identity
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import read_shard, shard_name, write_shard
from pipeline.artifacts.teacher_shards import teacher_members
from pipeline.embedding.worker import ShardTask
from pipeline.teachers.load import WEIGHTS

IMAGE = (640, 480)  # pixels, width and height
WEB_IMAGE = (340, 256)  # as img2dataset stores images
QUALITY = 90  # of the JPEGs: with the noise below, about 90 kB each
# Noise of natural images is stronger the coarser it is: side of a patch in pixels, amplitude
NOISE = ((160, 50.0), (40, 30.0), (10, 16.0), (4, 10.0), (2, 7.5))


def photographs(
    distinct: int = 32, seed: int = 0, size: tuple[int, int] = IMAGE
) -> Iterator[bytes]:
    """Yields JPEGs of the size and complexity of photographs, without end.

    Args:
        distinct: Number of different images; then they repeat.
        seed: Seed of the noise.
        size: Width and height, pixels.
    """
    rng = np.random.default_rng(seed)
    return cycle([_photograph(rng, size) for _ in range(distinct)])


def _photograph(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    width, height = size
    total = np.full((3, height, width), 128.0, np.float32)
    for patch, amplitude in NOISE:
        coarse = rng.normal(0, amplitude, (3, height // patch, width // patch)).astype(np.float32)
        total += np.stack([_enlarged(channel, size) for channel in coarse])
    file = io.BytesIO()
    pixels = total.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _enlarged(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC))


def write_images(
    folder: Path, jpegs: Iterable[bytes], count: int, captions: int, per_shard: int = 500
) -> Manifest:
    """Writes image shards as the stage `prepare` does.

    Args:
        folder: Folder of the shards, with the name of the split.
        jpegs: At least `count` images.
        count: Number of images.
        captions: Captions an image.
        per_shard: Images a shard.
    """
    samples = (
        _image_members(f"{folder.name}-{number:07d}", jpeg, captions)
        for number, jpeg in enumerate(islice(jpegs, count))
    )
    shards = [
        write_shard(folder / shard_name(index), islice(samples, per_shard))
        for index in range(-(-count // per_shard))
    ]
    manifest = Manifest("images", folder.name, shards, {})
    manifest.write(folder)
    return manifest


def _image_members(key: str, jpeg: bytes, captions: int) -> dict[str, Any]:
    texts = [f"what line {line} says of the photograph {key}" for line in range(captions)]
    description = {"captions": texts, "label": None, "source": "generated"}
    return {"__key__": key, "jpg": jpeg, "json": json.dumps(description, sort_keys=True).encode()}


def write_embeddings(
    images: Path,
    out: Path,
    views: int,
    captions: int,
    dim: int,
    size: tuple[int, int] = IMAGE,
) -> dict[str, Any]:
    """Writes teacher shards of random unit embeddings for image shards.

    Args:
        images: Folder of the image shards.
        out: Folder of the teacher shards.
        views: Views an image.
        captions: Captions an image.
        dim: Width of the embeddings.
        size: Width and height of the images, pixels.

    Returns:
        The identity of the cache.
    """
    manifest = Manifest.read(images)
    rng, plan = np.random.default_rng(0), ViewPlan(views)

    def samples(path: Path) -> Iterator[dict[str, Any]]:
        for _, sample in read_shard(path):
            embeddings = rng.normal(size=(views + captions, dim))
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            drawn = plan.draw_all(sample["__key__"], size)
            yield teacher_members(sample, embeddings, drawn)

    shards = [write_shard(out / s.name, samples(images / s.name)) for s in manifest.shards]
    identity = {"teacher": {"embed_dim": dim}, "views": {"count": views}}
    Manifest("teacher", manifest.split, shards, identity).write(out)
    return identity


def write_teacher(folder: Path, architecture: tuple[int, ...]) -> None:
    """Writes a CLIP of random weights, as the stage `teacher` does.

    Args:
        folder: Folder of the teacher.
        architecture: Arguments of `clip.model.CLIP`.
    """
    torch.manual_seed(0)
    clip = import_clip()
    model = clip.model.CLIP(*architecture)
    clip.model.convert_weights(model)
    state = model.state_dict()
    folder.mkdir(parents=True)
    write_tensors(folder / WEIGHTS, state)
    write_teacher_identity(folder, ClipTeacher(state, "random").identity().to_dict())


def shard_task(folder: Path, split: str, num_images: int) -> ShardTask:
    """A task of `embed`: a split of one shard of photographs, without captions.

    Args:
        folder: Receives the image shard, and the teacher shard later.
        split: `train` has all views, the others have the plain one.
        num_images: Images of the shard.
    """
    images = folder / "images" / split
    manifest = write_images(images, photographs(), num_images, captions=0, per_shard=num_images)
    out = ShardFolder(folder / "embeddings" / split)
    return ShardTask(split, ShardFolder(images), manifest.shards[0], out)


def no_progress(name: str, done: int) -> None:
    """Ignores progress."""
