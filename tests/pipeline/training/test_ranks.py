"""Ranks that share the steps of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kdeov.errors import ConfigError
from pipeline.artifacts.step_curve import read_steps
from pipeline.config.paths import Layout
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.step_log import StepLog
from pipeline.training.trainer import check_workers
from tests.helpers.training_runs import (
    TERMS,
    MakeParams,
    config,
    latest,
    trained,
)


def work(rank: int, world: int, settings: TrainConfig, meeting: Path, dies: int | None) -> None:
    """A rank of a run; rank 1 is killed after a number of steps."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    if dies is not None and rank == 1:
        add = StepLog.add

        def last(log: StepLog, epoch: int, step: int, loss: float, digest: int) -> None:
            add(log, epoch, step, loss, digest)
            if epoch * 2 + step + 1 == dies:
                os.kill(os.getpid(), signal.SIGKILL)

        StepLog.add = last  # type: ignore[method-assign]
    train(settings, lambda _: None)


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_and_one_takes_over_when_a_rank_is_killed(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    """A real SIGKILL of rank 1; the run is taken up by a world of another size. Of the three
    micro-batches of a step, the first rank has two.
    """
    params = make_params(
        distill={"losses": TERMS, "global_batch_size": 12, "num_streams": 3, "learning_rate": 1e-5}
    )
    alone, pair, killed = (
        config(built, params, tmp_path / name, checkpoint_every=1)
        for name in ("alone", "pair", "killed")
    )
    rows, expected = trained(alone)
    mp.spawn(work, (2, pair, tmp_path / "meet-1", None), nprocs=2)
    with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
        mp.spawn(work, (2, killed, tmp_path / "meet-2", 3), nprocs=2)
    reached = latest(killed)
    assert (reached["epoch"], reached["step"]) == (1, 0)
    trained(killed)

    steps = read_steps(alone.run / "steps")
    for other in (pair, killed):
        for step, found in zip(steps, read_steps(other.run / "steps"), strict=True):
            assert (found.epoch, found.step, found.keys) == (step.epoch, step.step, step.keys)
            assert found.loss == pytest.approx(step.loss, rel=1e-5)
    assert [step.workers for step in read_steps(killed.run / "steps")] == [2, 2, 1, 1]
    for other in (pair, killed):
        assert [row["train_total"] for row in latest(other)["history"]] == pytest.approx(
            [row["train_total"] for row in rows], rel=1e-5
        )
        for name, value in latest(other)["student"].items():
            torch.testing.assert_close(value, expected["student"][name], atol=1e-4, rtol=1e-3)


def test_fewer_images_than_ranks_are_refused(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    sharing = {
        "global_batch_size": 32, "micro_batch_size": 1, "num_streams": 32, "image_size": 64
    }  # fmt: skip
    settings = config(built, make_params(distill=sharing), tmp_path)
    shards = settings.shards("train")
    check_workers(settings, shards, workers=24)
    with pytest.raises(ConfigError, match=r"24 .* 25 workers.*cluster\.num_workers"):
        check_workers(settings, shards, workers=25)
