"""Some images of the training split, spread over it: they calibrate INT8, and are the background of
searches.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError, first_line
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.storage.checked import fix_of

MAX_SHARDS = 16  # from which images are read; shards of a bucket are large
BATCH = 64  # images in memory


def training_batches(
    folder: Path, storage: str | None, transform: ImageTransform, count: int
) -> Iterator[np.ndarray]:
    """Training images as the student sees them, without augmentation.

    They lie at even distances in up to `MAX_SHARDS` shards at even distances, since a source may
    be in the order of its classes.

    Args:
        folder: `out/images`.
        storage: Address of the storage of the shards; None where they lie in `folder`.
        transform: The student's.
        count: How many, if the split has as many.

    Yields:
        Batches uint8 [B, 3, S, S], the same in every call.

    Raises:
        DataError: Shards are missing or damaged.
    """
    split = ShardFolder(folder, storage) / "train"
    manifest = split.manifest()
    shards = [manifest.shards[n] for n in _spread(len(manifest.shards), MAX_SHARDS)]
    images = _chosen_images(split, shards, transform, count)
    while batch := list(islice(images, BATCH)):
        yield np.stack(batch)


def _chosen_images(
    folder: ShardFolder, shards: Sequence[Shard], transform: ImageTransform, count: int
) -> Iterator[np.ndarray]:
    numbers = _spread(sum(shard.samples for shard in shards), count)
    start = 0
    for shard in shards:
        mine = {n - start for n in numbers if start <= n < start + shard.samples}
        start += shard.samples
        if mine:
            for _, sample in folder.read(shard, mine.__contains__, max(mine) + 1, min(mine)):
                yield _pixels(sample["jpg"], transform, folder.where(shard))


def _spread(total: int, count: int) -> list[int]:
    """Up to `count` numbers below `total`, at even distances."""
    chosen = min(total, count)
    return [n * total // chosen for n in range(chosen)]


def _pixels(data: bytes, transform: ImageTransform, where: str) -> np.ndarray:
    try:
        return transform.pixels(Image.open(io.BytesIO(data))).numpy()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}: an image cannot be decoded ({first_line(error)}); {fix_of('prepare')}"
        ) from error
