"""Proof of the cache: an honest one passes; what is wrong is named by shard, key and view."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdeov.teacher import ClipTeacher
from kdeov.views import VIEW_FIELDS
from pipeline.cache import PairedShards
from pipeline.identity import cache_identity, view_plan
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.shards import Manifest, read_shard, write_shard
from pipeline.teacher import load_teacher
from pipeline.verify import LOWEST_COSINE, verify_cache

DIM = 32


@pytest.fixture(scope="module")
def teacher(built: Layout) -> ClipTeacher:
    return load_teacher(built.teacher)


def verify(
    layout: Layout, params: Params, teacher: ClipTeacher, split: str = "train", entries: int = 99
) -> float:
    plan = view_plan(params.embed, split)
    identity = cache_identity(teacher.identity().to_dict(), plan)
    shards = PairedShards(layout.images / split, layout.embeddings / split, identity)
    return verify_cache(shards, teacher, plan, entries)


def forge(folder: Path, edit: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Changes vectors and views of every sample, with a manifest that vouches for the result."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for number, shard in enumerate(manifest["shards"]):
        samples = []
        for _, sample in list(read_shard(folder / shard["name"])):
            vectors = np.frombuffer(sample["fp16"], "<f2").reshape(-1, DIM).copy()
            views = np.frombuffer(sample["views"], "<u2").reshape(-1, VIEW_FIELDS).copy()
            edit(vectors, views)
            samples.append(
                {
                    "__key__": sample["__key__"],
                    "fp16": vectors.tobytes(),
                    "views": views.tobytes(),
                }
            )
        manifest["shards"][number] = asdict(write_shard(folder / shard["name"], samples))
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_honest_cache_passes(
    built: Layout, params: Params, teacher: ClipTeacher, split: str
) -> None:
    assert LOWEST_COSINE <= verify(built, params, teacher, split) <= 1 + 1e-5


def flip(vectors: np.ndarray, views: np.ndarray) -> None:
    views[:, 4] ^= 1


def shift(vectors: np.ndarray, views: np.ndarray) -> None:
    vectors[:3] = np.roll(vectors[:3], 1, axis=0)


def swap_captions(vectors: np.ndarray, views: np.ndarray) -> None:
    vectors[3:] = vectors[:3]


def double(vectors: np.ndarray, views: np.ndarray) -> None:
    vectors *= 2


def spoil(vectors: np.ndarray, views: np.ndarray) -> None:
    vectors[:3, 5] = np.nan


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (flip, "not the view that params draw"),
        (shift, "with the live teacher"),
        (swap_captions, "has a caption with cosine"),
        (double, "has a vector of length 2, not 1"),
        (spoil, "has a vector of length nan, not 1"),
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
    forge(checkout.embeddings / "train", edit)
    with complains("teacher shard 00000", "key train-00000", "view ", words, "dvc repro -f embed"):
        verify(checkout, params, teacher)


def test_forging_nothing_changes_no_byte(checkout: Layout, built: Layout) -> None:
    forge(checkout.embeddings / "train", lambda vectors, views: None)
    before, after = (
        Manifest.read(layout.embeddings / "train", "embed") for layout in (built, checkout)
    )
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
        verify(checkout, params, teacher, entries=0)
