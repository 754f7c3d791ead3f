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

from kdeov.data.colors import adjust_colors_
from kdeov.data.rendering import StoredImage, render
from kdeov.data.transform import ImageTransform
from kdeov.data.views import view_of_epoch
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.epoch_plan import EpochPlan
from pipeline.data.loader import (
    BatchLoader,
    EpochStream,
    EvaluationStream,
    caption_of_epoch,
    epoch_loader,
)
from pipeline.data.paired_shards import PairedShards, open_cache

TRANSFORM = ImageTransform(size=32)


@pytest.fixture(scope="module")
def shards(built: Layout, params: Params) -> PairedShards:
    return open_cache(params, built, "train")


@pytest.fixture(scope="module")
def samples(shards: PairedShards) -> list[PairedSample]:
    return list(shards)


def plan_of(
    shards: PairedShards, epoch: int, batch: int = 8, num_streams: int = 4, buffer: int = 16
) -> EpochPlan:
    return EpochPlan(shards.manifest.sizes, 0, epoch, batch, num_streams, buffer)


def keys_of(plan: EpochPlan) -> list[list[str]]:
    return [[f"train-{number:07d}" for number in step] for step in plan.order()]


@settings(max_examples=25, deadline=None)
@given(
    num_streams=st.integers(1, 4),
    share=st.integers(1, 3),
    world=st.integers(1, 3),
    buffer=st.integers(1, 40),
    epoch=st.integers(0, 6),
    data=st.data(),
)
def test_the_ranks_batches_together_are_the_plan_from_any_step_on(
    shards: PairedShards,
    num_streams: int,
    share: int,
    world: int,
    buffer: int,
    epoch: int,
    data: st.DataObject,
) -> None:
    plan = plan_of(shards, epoch, num_streams * world * share, num_streams * world, buffer)
    first = data.draw(st.integers(0, plan.steps), label="step")
    ranks = [
        list(EpochStream(shards, plan, TRANSFORM, rank, world, from_step=first))
        for rank in range(world)
    ]
    joined = [[k for batch in step for k in batch.keys] for step in zip(*ranks, strict=True)]
    assert joined == keys_of(plan)[first:]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_loader_processes_change_no_batch(shards: PairedShards, workers: int) -> None:
    plan = plan_of(shards, 1, batch=12, num_streams=6)
    for rank in range(2):
        stream = EpochStream(shards, plan, TRANSFORM, rank, 2)
        found, expected = list(epoch_loader(stream, workers)), list(stream)
        assert [b.keys for b in found] == [b.keys for b in expected]
        for one, two in zip(found, expected, strict=True):
            assert all(map(torch.equal, one.tensors, two.tensors))


def test_more_loader_processes_than_streams_are_not_started(shards: PairedShards) -> None:
    plan = plan_of(shards, 0, batch=8, num_streams=2)
    batches = epoch_loader(EpochStream(shards, plan, TRANSFORM), workers=5)
    assert batches.num_workers == 2
    assert [batch.keys for batch in batches] == keys_of(plan)


def test_the_student_is_shown_exactly_what_the_teacher_embedded(
    shards: PairedShards, samples: list[PairedSample]
) -> None:
    by_key = {sample.key: sample for sample in samples}
    for epoch in range(2):
        (batch,) = EpochStream(shards, plan_of(shards, epoch, 24), TRANSFORM)
        assert batch.pixels.shape == (24, 3, 32, 32) and batch.pixels.dtype == torch.uint8
        assert batch.teacher.dtype == batch.texts.dtype == torch.float32
        for key, pixels, teacher, text in zip(
            batch.keys, batch.pixels, batch.teacher, batch.texts, strict=True
        ):
            sample = by_key[key]
            view = view_of_epoch(key, epoch, 3)
            assert torch.equal(pixels, render(StoredImage(sample.jpeg), sample.views[view], 32))
            assert np.array_equal(teacher.numpy(), sample.view_embeddings[view].astype(np.float32))
            caption = caption_of_epoch(key, epoch, 3)
            assert np.array_equal(text.numpy(), sample.text_embeddings[caption].astype(np.float32))


@pytest.mark.parametrize("workers", [0, 2])
def test_colors_that_are_left_to_the_device_are_those_of_the_loader(
    shards: PairedShards, workers: int
) -> None:
    plan = plan_of(shards, 1, batch=12, num_streams=6)
    loaders = [
        epoch_loader(EpochStream(shards, plan, TRANSFORM, colors_on_device=late), workers)
        for late in (False, True)
    ]
    changed = 0
    for batch, late in zip(*loaders, strict=True):
        assert not batch.views and len(late.views) == len(late.keys) == 12
        changed += not torch.equal(batch.pixels, late.pixels)
        assert torch.equal(batch.pixels, adjust_colors_(late.pixels, late.views))
        assert all(map(torch.equal, batch.tensors[1:], late.tensors[1:]))
    assert changed


def test_all_views_and_captions_take_turns(
    shards: PairedShards, samples: list[PairedSample]
) -> None:
    seen: dict[str, set[bytes]] = {sample.key: set() for sample in samples}
    for epoch in range(3):
        for batch in EpochStream(shards, plan_of(shards, epoch), TRANSFORM):
            for key, teacher, text in zip(batch.keys, batch.teacher, batch.texts, strict=True):
                seen[key] |= {teacher.numpy().tobytes(), b"text" + text.numpy().tobytes()}
    for sample in samples:
        embeddings = {v.astype(np.float32).tobytes() for v in sample.view_embeddings}
        texts = {b"text" + t.astype(np.float32).tobytes() for t in sample.text_embeddings}
        assert seen[sample.key] == embeddings | texts


@pytest.mark.parametrize("world", range(1, 6))
@pytest.mark.parametrize(("batch_size", "workers"), [(5, 0), (64, 0), (3, 2)])
def test_evaluation_shows_the_split_once_in_order(
    built: Layout, params: Params, world: int, batch_size: int, workers: int
) -> None:
    shards = open_cache(params, built, "val")
    expected = list(shards)
    batches = [
        batch
        for rank in range(world)
        for batch in BatchLoader(
            EvaluationStream(shards, TRANSFORM, batch_size, rank, world), workers
        )
    ]
    assert [key for batch in batches for key in batch.keys] == [s.key for s in expected]
    assert max(len(batch.keys) for batch in batches) <= batch_size
    plain = np.stack([sample.view_embeddings[0] for sample in expected]).astype(np.float32)
    assert np.array_equal(torch.cat([batch.teacher for batch in batches]).numpy(), plain)
    shown = batches[0].pixels[0].int()  # of the runtime, which has no torch: a level of rounding
    assert (shown - TRANSFORM.pixels(Image.open(io.BytesIO(expected[0].jpeg)))).abs().max() <= 1


def test_more_ranks_than_images_leave_some_ranks_idle(built: Layout, params: Params) -> None:
    shards = open_cache(params, built, "val")
    keys = [
        [key for batch in EvaluationStream(shards, TRANSFORM, 8, rank, 20) for key in batch.keys]
        for rank in range(20)
    ]
    assert sorted(key for part in keys for key in part) == sorted(s.key for s in shards)
    assert [] in keys


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_reported_in_one_line_by_loader_processes_too(
    checkout: Layout, params: Params, complains: Any, workers: int
) -> None:
    shards = open_cache(params, checkout, "train")
    path = checkout.images / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with complains(path):
        list(epoch_loader(EpochStream(shards, plan_of(shards, 0), TRANSFORM), workers))


@pytest.mark.slow
def test_streams_of_one_plan_can_be_read_again(shards: PairedShards) -> None:
    stream: Any = EpochStream(shards, plan_of(shards, 0), TRANSFORM)
    assert [batch.keys for batch in stream] == [batch.keys for batch in stream]
