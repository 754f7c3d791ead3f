"""What training reads is what the plan says, whoever reads it, and what the teacher saw."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdeov.transform import ImageTransform
from kdeov.views import render, view_of_epoch
from pipeline.cache import CachedSample, PairedShards
from pipeline.identity import cache_identity, view_plan
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.plan import plan_epoch
from pipeline.stream import EpochStream, EvaluationStream, caption_of_epoch, epoch_loader, loader
from pipeline.teacher import read_teacher_identity

TRANSFORM = ImageTransform(size=32)


def paired(layout: Layout, params: Params, split: str) -> PairedShards:
    identity = cache_identity(read_teacher_identity(layout.teacher), view_plan(params.embed, split))
    return PairedShards(layout.images / split, layout.embeddings / split, identity)


@pytest.fixture(scope="module")
def shards(built: Layout, params: Params) -> PairedShards:
    return paired(built, params, "train")


@pytest.fixture(scope="module")
def samples(shards: PairedShards) -> list[CachedSample]:
    return list(shards)


@settings(max_examples=25, deadline=None)
@given(
    share=st.integers(1, 9),
    world=st.integers(1, 4),
    window=st.integers(1, 4),
    epoch=st.integers(0, 6),
)
def test_joined_batches_of_all_ranks_are_the_plan(
    shards: PairedShards, share: int, world: int, window: int, epoch: int
) -> None:
    plan = plan_epoch(shards.manifest.sizes, 0, epoch, share * world, window)
    ranks = [
        list(EpochStream(shards, plan, epoch, TRANSFORM, rank, world)) for rank in range(world)
    ]
    assert {len(batches) for batches in ranks} == {plan.steps}
    joined = [key for step in zip(*ranks, strict=True) for batch in step for key in batch.keys]
    assert joined == [f"train-{number:07d}" for number in plan.order]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_processes_keep_the_order_of_the_plan(shards: PairedShards, workers: int) -> None:
    for rank in range(2):
        plan, batches = epoch_loader(
            shards, TRANSFORM, seed=0, epoch=1, global_batch=10, window=2,
            rank=rank, world=2, workers=workers,
        )  # fmt: skip
        found = [batch.keys for batch in batches]
        assert found == [
            [f"train-{number:07d}" for number in plan.order[plan.positions(step, rank, 2)]]
            for step in range(plan.steps)
        ]


def test_the_student_is_shown_exactly_what_the_teacher_embedded(
    shards: PairedShards, samples: list[CachedSample]
) -> None:
    by_key = {sample.key: sample for sample in samples}
    for epoch in range(2):
        plan = plan_epoch(shards.manifest.sizes, 0, epoch, 24, 4)
        (batch,) = EpochStream(shards, plan, epoch, TRANSFORM)
        assert batch.pixels.shape == (24, 3, 32, 32) and batch.pixels.dtype == torch.uint8
        assert batch.teacher.dtype == batch.texts.dtype == torch.float32
        for key, pixels, teacher, text in zip(
            batch.keys, batch.pixels, batch.teacher, batch.texts, strict=True
        ):
            sample = by_key[key]
            view = view_of_epoch(key, epoch, 3)
            image = Image.open(io.BytesIO(sample.jpeg)).convert("RGB")
            assert np.array_equal(
                pixels.permute(1, 2, 0).numpy(), render(image, sample.views[view], 32)
            )
            assert np.array_equal(teacher.numpy(), sample.view_vectors[view].astype(np.float32))
            caption = caption_of_epoch(key, epoch, 3)
            assert np.array_equal(text.numpy(), sample.text_vectors[caption].astype(np.float32))


def test_all_views_and_captions_take_turns(
    shards: PairedShards, samples: list[CachedSample]
) -> None:
    seen: dict[str, set[bytes]] = {sample.key: set() for sample in samples}
    for epoch in range(3):
        plan = plan_epoch(shards.manifest.sizes, 0, epoch, 8, 2)
        for batch in EpochStream(shards, plan, epoch, TRANSFORM):
            for key, teacher, text in zip(batch.keys, batch.teacher, batch.texts, strict=True):
                seen[key] |= {teacher.numpy().tobytes(), b"text" + text.numpy().tobytes()}
    for sample in samples:
        vectors = {v.astype(np.float32).tobytes() for v in sample.view_vectors}
        texts = {b"text" + t.astype(np.float32).tobytes() for t in sample.text_vectors}
        assert seen[sample.key] == vectors | texts


@pytest.mark.parametrize("world", range(1, 6))
@pytest.mark.parametrize("batch_size", [5, 64])
def test_evaluation_shows_the_split_once_in_order(
    built: Layout, params: Params, world: int, batch_size: int
) -> None:
    shards = paired(built, params, "val")
    expected = list(shards)
    batches = [
        batch
        for rank in range(world)
        for batch in loader(EvaluationStream(shards, TRANSFORM, batch_size, rank, world), 0)
    ]
    assert [key for batch in batches for key in batch.keys] == [s.key for s in expected]
    assert max(len(batch.keys) for batch in batches) <= batch_size
    plain = np.stack([sample.view_vectors[0] for sample in expected]).astype(np.float32)
    assert np.array_equal(torch.cat([batch.teacher for batch in batches]).numpy(), plain)
    first = Image.open(io.BytesIO(expected[0].jpeg))
    assert torch.equal(batches[0].pixels[0], TRANSFORM.pixels(first))


def test_more_ranks_than_pictures_leave_some_ranks_idle(built: Layout, params: Params) -> None:
    shards = paired(built, params, "val")
    keys = [
        [key for batch in EvaluationStream(shards, TRANSFORM, 8, rank, 20) for key in batch.keys]
        for rank in range(20)
    ]
    assert sorted(key for part in keys for key in part) == sorted(s.key for s in shards)
    assert [] in keys


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_told_in_one_line_by_loader_processes_too(
    checkout: Layout, params: Params, complains: Any, workers: int
) -> None:
    shards = paired(checkout, params, "train")
    path = checkout.images / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[:30_000])
    plan = plan_epoch(shards.manifest.sizes, 0, 0, 8, 2)
    with complains(path):
        list(loader(EpochStream(shards, plan, 0, TRANSFORM), workers))


def test_streams_of_one_plan_can_be_read_again(shards: PairedShards) -> None:
    plan = plan_epoch(shards.manifest.sizes, 0, 0, 8, 2)
    stream: Any = EpochStream(shards, plan, 0, TRANSFORM)
    assert [batch.keys for batch in stream] == [batch.keys for batch in stream]
