"""The images for which INT8 is calibrated: some of the training split, spread over it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError, first_line
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.storage.checked import fix_of

MAX_SHARDS = 8  # from which images are read; shards of a bucket are large


def calibration_images(
    images: Path, storage: str | None, transform: ImageTransform, count: int
) -> np.ndarray:
    """Training images as the student sees them, without augmentation.

    They lie at even distances in up to `MAX_SHARDS` shards at even distances, since a source may
    be in the order of its classes.

    Args:
        images: `out/images`.
        storage: Address of the storage of the shards; None where they lie in `images`.
        transform: The student's.
        count: How many, if the split has as many.

    Returns:
        uint8 [N, 3, S, S], the same in every call.

    Raises:
        DataError: Shards are missing or damaged.
    """
    folder = ShardFolder(images, storage) / "train"
    manifest = folder.manifest()
    shards = [manifest.shards[n] for n in _spread(len(manifest.shards), MAX_SHARDS)]
    pixels = [np.empty((0, 3, transform.size, transform.size), np.uint8)]
    total = sum(shard.samples for shard in shards)
    numbers = _spread(total, count)
    start = 0
    for shard in shards:
        mine = {n - start for n in numbers if start <= n < start + shard.samples}
        start += shard.samples
        if mine:
            for _, sample in folder.read(shard, mine.__contains__, stop=max(mine) + 1):
                pixels.append(_pixels(sample["jpg"], transform, folder.where(shard))[None])
    return np.concatenate(pixels)


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
