"""Batches that are decoded and launched ahead, as on a GPU, give the samples of one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kdeov.errors import DataError
from kdeov.teachers.base import TowerTeacher
from pipeline.artifacts.identity import read_teacher_identity, view_plan
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.embedding.embedder import ShardEmbedder
from pipeline.teachers.load import load_teacher

VIEWS = 3
IMAGES = 10  # of the first shard


def embedder(built: Layout, params: Params, ahead: int) -> ShardEmbedder:
    teacher = load_teacher(built.teacher)
    assert isinstance(teacher, TowerTeacher)
    plan = view_plan(read_teacher_identity(built.teacher), params.embed, "train")
    made = ShardEmbedder(teacher, plan, batch_size=4 * VIEWS, decoders=2)
    made.ahead = ahead
    return made


def samples(made: ShardEmbedder, built: Layout, advanced: list[int]) -> Iterator[dict[str, Any]]:
    images = ShardFolder(built.images / "train")
    return made.samples(images, images.manifest().shards[0], advanced.append)


@pytest.mark.parametrize("ahead", [1, 2])
def test_batches_ahead_change_no_sample_and_no_progress(
    built: Layout, params: Params, ahead: int
) -> None:
    counts: list[int] = []
    expected = list(samples(embedder(built, params, 0), built, []))
    found = list(samples(embedder(built, params, ahead), built, counts))
    assert found == expected and len(found) == IMAGES
    assert counts == [4, 4, 2]


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_of_a_later_batch_comes_after_the_samples_before_it(
    built: Layout, params: Params, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = embedder(built, params, ahead)
    crop, keys = made._crop, []

    def damaged(sample: dict[str, Any]) -> Any:
        keys.append(sample["__key__"])
        if sample["__key__"].endswith("9"):
            raise DataError("the image cannot be decoded")
        return crop(sample)

    monkeypatch.setattr(made, "_crop", damaged)
    found = []
    with pytest.raises(DataError, match="cannot be decoded"):
        for sample in samples(made, built, []):
            found.append(sample["__key__"])
    assert found == sorted(keys)[: len(found)] and len(found) >= 4
