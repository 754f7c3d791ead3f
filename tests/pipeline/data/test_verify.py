"""Proof of the cache: an honest one passes; what is wrong is named by shard, key and view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdeov.data.views import VIEW_FIELDS, views_from_ints
from kdeov.teachers.clip import ClipTeacher
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shards import read_shard, write_shard
from pipeline.artifacts.teacher_shards import teacher_members
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.data.verify import MIN_COSINE, verify_cache
from pipeline.teachers.load import load_teacher

DIM = 32


@pytest.fixture(scope="module")
def teacher(built: Layout) -> ClipTeacher:
    return load_teacher(built.teacher)


def verify(
    layout: Layout,
    params: Params,
    teacher: ClipTeacher,
    split: str = "train",
    entries: int = 99,
    whole: bool = False,
) -> float:
    return verify_cache(open_cache(params, layout, split), teacher, entries, whole)


def forge(layout: Layout, edit: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Changes embeddings and views of every training sample, with checksums and a manifest that
    vouch for the result.
    """
    images, folder = layout.images / "train", layout.embeddings / "train"
    manifest, shards = Manifest.read(folder), []
    for shard in manifest.shards:
        image_samples, cached = (
            read_shard(images / shard.name),
            list(read_shard(folder / shard.name)),
        )
        samples = []
        for (_, image), (_, sample) in zip(image_samples, cached, strict=True):
            embeddings = np.frombuffer(sample["fp16"], "<f2").reshape(-1, DIM).copy()
            views = np.frombuffer(sample["views"], "<u2").reshape(-1, VIEW_FIELDS).copy()
            edit(embeddings, views)
            samples.append(teacher_members(image, embeddings, views_from_ints(views)))
        shards.append(write_shard(folder / shard.name, samples))
    replace(manifest, shards=shards).write(folder)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_honest_cache_passes(
    built: Layout, params: Params, teacher: ClipTeacher, split: str
) -> None:
    assert MIN_COSINE <= verify(built, params, teacher, split) <= 1 + 1e-5


def flip(embeddings: np.ndarray, views: np.ndarray) -> None:
    views[:, 4] ^= 1


def shift(embeddings: np.ndarray, views: np.ndarray) -> None:
    embeddings[:3] = np.roll(embeddings[:3], 1, axis=0)


def swap_captions(embeddings: np.ndarray, views: np.ndarray) -> None:
    embeddings[3:] = embeddings[:3]


def double(embeddings: np.ndarray, views: np.ndarray) -> None:
    embeddings *= 2


def spoil(embeddings: np.ndarray, views: np.ndarray) -> None:
    embeddings[:3, 5] = np.nan


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (flip, "which params do not draw"),
        (shift, "cosine"),
        (swap_captions, "cosine"),
        (double, "of length 2, not 1"),
        (spoil, "of length nan, not 1"),
    ],
)
def test_a_wrong_entry_is_named_by_shard_key_and_view(
    checkout: Layout,
    params: Params,
    teacher: ClipTeacher,
    complains: Any,
    edit: Callable[[np.ndarray, np.ndarray], None],
    words: str,
) -> None:
    folder = checkout.embeddings / "train"
    forge(checkout, edit)
    which = "caption " if edit is swap_captions else "view "
    with complains(f"{folder}/00000", "key train-00000", which, words, "dvc repro -f embed"):
        verify(checkout, params, teacher)


def test_forging_nothing_changes_no_byte(checkout: Layout, built: Layout) -> None:
    forge(checkout, lambda embeddings, views: None)
    before, after = (Manifest.read(layout.embeddings / "train") for layout in (built, checkout))
    assert before == after


@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_bytes_are_compared_even_where_no_entry_is(
    checkout: Layout, params: Params, teacher: ClipTeacher, complains: Any, side: str
) -> None:
    path: Path = getattr(checkout, side) / "train" / "000002.tar"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the padding, where no reader looks
    path.write_bytes(data)
    with complains(path, "its bytes differ from the manifest"):
        verify(checkout, params, teacher, entries=0, whole=True)


@pytest.mark.parametrize("edit", [double, spoil])
def test_the_whole_cache_is_read_even_where_no_entry_is(
    checkout: Layout, params: Params, teacher: ClipTeacher, complains: Any, edit: Any
) -> None:
    forge(checkout, edit)
    with complains("000000.tar", "key train-0000000, view 0 "):
        verify(checkout, params, teacher, entries=0, whole=True)


def test_a_sample_of_entries_reads_the_shards_that_they_are_in_alone(
    checkout: Layout, params: Params, teacher: ClipTeacher, complains: Any
) -> None:
    for path in (checkout.embeddings / "train").glob("*.tar"):
        path.write_bytes(path.read_bytes()[:-512])
    verify(checkout, params, teacher, entries=0)
    with complains("its bytes differ from the manifest"):
        verify(checkout, params, teacher, entries=1)
