"""The training images that an export reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdeov.data.transform import ImageTransform
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.export.training_images import BATCH, MAX_SHARDS, training_batches

TRANSFORM = ImageTransform(8)


def write_split(images: Path, shards: int, each: int, broken: int | None = None) -> None:
    """Writes gray images, each of another level, 10 by 6 pixels, into the split `train`."""
    folder = ShardFolder(images) / "train"

    def sample(number: int) -> dict[str, Any]:
        file = io.BytesIO()
        Image.new("RGB", (10, 6), (number, number, number)).save(file, "png")
        data = b"no image" if number == broken else file.getvalue()
        return {"__key__": f"{number:06d}", "jpg": data, "json": b"{}"}

    written = [
        folder.write(f"{n:06d}.tar", [sample(n * each + k) for k in range(each)])
        for n in range(shards)
    ]
    Manifest("images", "train", written, {}).write(folder.path)


def levels(images: Path, count: int) -> list[int]:
    batches = list(training_batches(images, None, TRANSFORM, count))
    assert all(0 < len(batch) <= BATCH for batch in batches)
    pixels = np.concatenate(batches)
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (3, 8, 8)
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


def test_the_images_are_spread_over_the_split(tmp_path: Path) -> None:
    write_split(tmp_path, shards=3, each=4)
    assert levels(tmp_path, 6) == [0, 2, 4, 6, 8, 10]
    assert levels(tmp_path, 4) == [0, 3, 6, 9]


def test_a_split_with_fewer_images_gives_all(tmp_path: Path) -> None:
    write_split(tmp_path, shards=2, each=3)
    assert levels(tmp_path, 100) == list(range(6))


def test_few_of_many_shards_are_read(tmp_path: Path) -> None:
    write_split(tmp_path, shards=2 * MAX_SHARDS, each=2)
    for number in range(1, 2 * MAX_SHARDS, 2):
        (tmp_path / "train" / f"{number:06d}.tar").unlink()
    assert levels(tmp_path, 2 * MAX_SHARDS) == [
        4 * n + k for n in range(MAX_SHARDS) for k in (0, 1)
    ]


def test_a_broken_image_is_named_by_its_shard(
    tmp_path: Path, complains: Callable[..., Any]
) -> None:
    write_split(tmp_path, shards=2, each=2, broken=3)
    with complains("000001.tar", "dvc repro"):
        levels(tmp_path, 4)


@pytest.mark.parametrize("lost", ["manifest.json", "000000.tar"])
def test_a_missing_file_is_named(tmp_path: Path, complains: Callable[..., Any], lost: str) -> None:
    write_split(tmp_path, shards=1, each=2)
    (tmp_path / "train" / lost).unlink()
    with complains(lost):
        levels(tmp_path, 2)
