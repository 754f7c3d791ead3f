"""Batches of images with boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.boxes.config import BoxConfig
from pipeline.boxes.stream import BoxBatch, BoxEvaluationStream, BoxStream
from pipeline.boxes.trainer import BoxTrainer
from pipeline.data.loader import epoch_loader
from tests.helpers.training_runs import assert_equal
from tests.pipeline.boxes.conftest import MakeConfig


def batches(config: BoxConfig, rank: int = 0, world: int = 1, from_step: int = 0, loaders: int = 0,
            epoch: int = 0) -> list[BoxBatch]:  # fmt: skip
    trainer = BoxTrainer(config)
    plan = config.plan(trainer.sizes, epoch)
    stream = BoxStream(
        trainer.train_shards, plan, trainer.augmentation, rank, world, from_step=from_step
    )
    return list(epoch_loader(stream, loaders))


def by_key(found: list[BoxBatch]) -> dict[str, tuple[torch.Tensor, list[list[float]]]]:
    return {
        key: (batch.pixels[n], batch.targets.boxes[n][batch.targets.present[n]].tolist())
        for batch in found
        for n, key in enumerate(batch.keys)
    }


@pytest.mark.slow
def test_inputs_are_the_same_for_any_number_of_ranks_and_of_loaders(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    whole = batches(config)
    expected = by_key(whole)
    assert len(expected) == 24
    ranks = [batch for rank in range(2) for batch in batches(config, rank, 2)]
    assert_equal(by_key(ranks), expected)
    assert_equal(by_key(batches(config, loaders=2)), expected)


@pytest.mark.slow
def test_a_run_that_starts_at_a_step_shows_the_inputs_of_that_step(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    whole = batches(config)
    assert_equal(batches(config, from_step=2), whole[2:])


def test_every_epoch_shows_every_image_another_way(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    one, two = by_key(batches(config)), by_key(batches(config, epoch=1))
    assert one.keys() == two.keys()
    assert not any(torch.equal(one[key][0], two[key][0]) for key in one)


def test_a_validation_reads_every_image_once_for_any_number_of_ranks(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    shards = make_config(tmp_path).shards("val")
    keys = [
        sample.key for rank in range(3) for sample, _, _ in BoxEvaluationStream(shards, 64, rank, 3)
    ]
    assert keys == [sample.key for sample in shards]
    assert len(set(keys)) == 12
