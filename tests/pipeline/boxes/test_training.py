"""Runs of the loop: they resume to the bit, and ranks share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kdeov.models.model import KDEOVModel
from kdeov.weights.state_dict import state_dict_sha256
from pipeline.artifacts.step_curve import read_steps
from pipeline.boxes.config import BoxConfig
from pipeline.boxes.trainer import BoxTrainer, check_workers, train
from pipeline.config.paths import Layout
from pipeline.training.loop import run_epochs
from tests.helpers.training_runs import Killed, assert_equal, die_at, latest, steady
from tests.pipeline.boxes.conftest import MakeConfig


def test_no_bit_of_the_students_embeddings_moves(
    make_config: MakeConfig, with_student: Layout, tmp_path: Path
) -> None:
    model = KDEOVModel.load(with_student.student)
    pixels = torch.randn(2, 3, 64, 64)
    trainer = BoxTrainer(make_config(tmp_path))
    with torch.no_grad():
        before = trainer.step.student(pixels)
    head = state_dict_sha256(trainer.head.state_dict())
    run_epochs(trainer, lambda _: None)
    assert state_dict_sha256(trainer.head.state_dict()) != head
    assert_equal(trainer.step.student.state_dict(), model.student.state_dict())
    with torch.no_grad():
        assert torch.equal(trainer.step.student(pixels), before)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.0, "mosaic": 0.0}])
def test_a_killed_run_ends_with_the_very_weights_of_one_that_was_not(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    rows: list[dict[str, float]] = []
    train(make_config(tmp_path / "whole", 1, **changes), rows.append)
    killed = make_config(tmp_path / "killed", 1, **changes)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 0, 1)
        train(killed, lambda _: None)
    again: list[dict[str, float]] = []
    train(killed, again.append)
    assert steady(again) == steady(rows)
    one, two = (latest(make_config(tmp_path / name)) for name in ("whole", "killed"))
    for name in ("model", "optimizer", "schedule", "head"):
        assert_equal(one[name], two[name])


def work(rank: int, world: int, settings: BoxConfig, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    train(settings, lambda _: None)


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one(make_config: MakeConfig, tmp_path: Path) -> None:
    """Of the three micro-batches of a step, the first rank has two."""
    changes = {"global_batch_size": 12, "num_streams": 3, "learning_rate": 1e-5}
    alone, pair = (make_config(tmp_path / name, **changes) for name in ("alone", "pair"))
    train(alone, lambda _: None)
    mp.spawn(work, (2, pair, tmp_path / "meeting"), nprocs=2)
    steps, shared = (read_steps(config.run / "steps") for config in (alone, pair))
    assert {step.workers for step in shared} == {2}
    for step, found in zip(steps, shared, strict=True):
        assert (found.epoch, found.step, found.keys) == (step.epoch, step.step, step.keys)
        assert found.loss == pytest.approx(step.loss, rel=1e-4)
    one, two = latest(alone), latest(pair)
    for key, value in steady(one["history"])[-1].items():
        if key != "workers":
            assert two["history"][-1][key] == pytest.approx(value, rel=1e-3, abs=1e-3)
    for name, value in one["head"].items():
        torch.testing.assert_close(two["head"][name], value, atol=1e-4, rtol=1e-3)


def test_more_workers_than_parts_of_a_step_are_refused(
    make_config: MakeConfig, tmp_path: Path, complains: Any
) -> None:
    config = make_config(tmp_path)
    check_workers(config, 2)
    with complains("train_boxes.global_batch_size", "3 workers"):
        check_workers(config, 3)
