"""Images that lie in two splits are told, whatever their size and compression, and stay."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.prepare.images import decode_image, gray_grid
from pipeline.prepare.near_duplicates import MAX_DISTANCE, difference_hashes, near_duplicates
from pipeline.prepare.prepare import write_image_shards
from tests.helpers.manifests import manifests

WORDS = st.integers(0, 2**64 - 1)


def hashes(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def hash_of(grid: bytes) -> int:
    return int(difference_hashes(grid)[0])


@settings(max_examples=60, deadline=None)
@given(base=WORDS, bits=st.sets(st.integers(0, 63), max_size=6), others=st.lists(WORDS, max_size=9))
def test_an_image_is_found_up_to_the_distance_and_not_beyond(
    base: int, bits: set[int], others: list[int]
) -> None:
    near = base ^ sum(1 << bit for bit in bits)
    known = [*others, base]
    found = near_duplicates(hashes(near), hashes(*known))
    within = [n for n, other in enumerate(known) if (near ^ other).bit_count() <= MAX_DISTANCE]
    assert bool(found) == bool(within)
    assert all(number == 0 and other in within for number, other in found)


def test_nothing_resembles_nothing() -> None:
    assert near_duplicates(hashes(), hashes(1)) == near_duplicates(hashes(1), hashes()) == []


def test_many_equal_images_take_no_longer() -> None:
    start = time.monotonic()
    found = near_duplicates(np.zeros(20_000, np.uint64), np.zeros(200_000, np.uint64))
    assert len(found) == 20_000 and time.monotonic() - start < 10


def again(data: bytes, size: tuple[int, int]) -> bytes:
    """The same image, smaller and compressed more."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).resize(size).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_photographs_resemble_their_copies_and_no_others(shared_data: Path, scale: float) -> None:
    originals, copies = [], []
    for path in sorted((shared_data / "flickr8k_1k" / "images").iterdir())[:100]:
        image = decode_image(path.read_bytes(), None)
        size = (round(image.size[0] * scale), round(image.size[1] * scale))
        originals.append(hash_of(image.grid))
        copies.append(hash_of(decode_image(again(image.jpeg, size), None).grid))
    found = near_duplicates(hashes(*copies), hashes(*originals))
    assert all(number == other for number, other in found)
    assert len(found) >= 95


def test_the_hash_marks_where_an_image_gets_brighter() -> None:
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (80, 1))).convert("RGB")
    assert hash_of(gray_grid(ramp)) == 2**64 - 1
    assert hash_of(gray_grid(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) == 0
    ramp.paste("black", (80, 0, 90, 10))  # the last cell of the first row, whose bit is the eighth
    assert hash_of(gray_grid(ramp)) == 2**64 - 1 - 2**56


def test_prepare_reports_images_of_two_splits_and_keeps_them(
    tmp_path: Path, make_params: Callable[..., Params], log: Any
) -> None:
    noise = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 5), ("test", 5)):
        folder = tmp_path / "own" / split / "cat"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((90, 80)).save(folder / f"{number}.jpg", quality=95)
    copy = tmp_path / "own" / "test" / "cat" / "copy.jpg"
    copy.write_bytes(again((tmp_path / "own" / "train" / "cat" / "25.jpg").read_bytes(), (60, 50)))
    section = {"templates": "plain", "class_names": None, "val": 0, "test": 0}
    changes = {"source": "image_folder", "image_folder": section, "samples_per_shard": 4}
    params = make_params(prepare=changes | {"path": str(tmp_path / "own")})
    write_image_shards(params.prepare, tmp_path / "out")
    pair = ["test/cat/copy.jpg", "train/cat/25.jpg"]
    dataset = Dataset.read(tmp_path / "out")
    assert dataset.near_duplicates == {"test in train": {"images": 1, "examples": [pair]}}
    assert dataset.samples == {"train": 30, "val": 5, "test": 6}
    assert "1 of 6 images of test nearly occur in train (test/cat/copy.jpg as" in log.text
    assert all(manifest.rejected == [] for manifest in manifests(tmp_path / "out"))
