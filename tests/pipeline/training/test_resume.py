"""A run that ended at any point continues with the same steps, to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdeov.training.rng import seed_rng
from pipeline.artifacts.step_curve import read_steps
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.training import rank
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics
from tests.helpers.training_runs import (
    TERMS,
    Killed,
    MakeParams,
    assert_equal,
    config,
    die_at,
    latest,
    steady,
    trained,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.5},
        {"losses": TERMS, "fusion": "cross_attention", "global_batch_size": 20},
    ],
    ids=["plain", "averaged", "every loss"],
)
def test_a_killed_run_ends_with_the_very_weights_of_one_that_was_not(
    built: Layout, make_params: MakeParams, tmp_path: Path, changes: dict[str, Any]
) -> None:
    params = make_params(distill=changes)
    rows, whole = trained(config(built, params, tmp_path / "whole"))

    def die(_: EpochMetrics) -> None:
        raise Killed

    killed = config(built, params, tmp_path / "killed")
    with pytest.raises(Killed):
        train(killed, die)
    assert latest(killed)["epoch"] == 1
    more, resumed = trained(killed)
    assert steady(more) == steady(rows[1:])
    assert steady(resumed.pop("history")) == steady(whole.pop("history"))
    assert_equal(resumed, whole)


def test_a_finished_run_is_left_as_it_is(built: Layout, params: Params, tmp_path: Path) -> None:
    settings = config(built, params, tmp_path)
    _, before = trained(settings)
    rows, after = trained(settings)
    assert rows == []
    assert_equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epoch", "step", "every", "changes"),
    [
        *((epoch, step, 1, {}) for epoch in (0, 1) for step in range(3)),
        *((epoch, 2, 2, {"ema_decay": 0.5, "losses": TERMS}) for epoch in (0, 1)),
        (0, 1, 500, {"ema_decay": 0.5, "ridge_init": 0.3, "backbone_learning_rate": 1e-4}),
    ],
)
def test_a_run_that_ends_at_any_step_goes_on_with_the_very_same_steps(
    built: Layout,
    make_params: MakeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    every: int,
    changes: dict[str, Any],
) -> None:
    params = make_params(distill=changes)
    whole = config(built, params, tmp_path / "whole", checkpoint_every=every)
    rows, expected = trained(whole)
    killed = config(built, params, tmp_path / "killed", checkpoint_every=every)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, epoch, step)
        train(killed, lambda _: None)
    before = read_steps(killed.run / "steps")
    _, found = trained(killed)
    assert steady(found.pop("history")) == steady(expected.pop("history")) == steady(rows)
    assert_equal(found, expected)
    steps = read_steps(whole.run / "steps")
    assert read_steps(killed.run / "steps") == steps  # the same losses, to the bit
    done = 3 * epoch + step + 1
    assert before == steps[: len(before)] and done - min(every, step + 1) <= len(before) < done


def test_a_restart_that_is_due_is_a_reason_for_a_checkpoint(
    built: Layout, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "RESTART_CHECK_STEPS", 2)
    settings = config(built, params, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 0, 2)
        train(settings, lambda _: None, restart_due=lambda: True)
    assert (latest(settings)["epoch"], latest(settings)["step"]) == (0, 2)


def test_all_random_generators_go_on_where_they_were(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    settings = config(built, params, tmp_path)
    train(settings, lambda _: None)
    drawn = random.random(), np.random.rand(), torch.rand(1)
    seed_rng(99)
    train(settings, lambda _: None)  # takes up the end of the run
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
