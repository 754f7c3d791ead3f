"""Distillation on a real Ray cluster of this machine, with real failures."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import pipeline.runtime.ray_train
from pipeline.cluster.local import LocalCluster, add_node
from pipeline.config.paths import Layout
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch
from pipeline.training.loop import train
from tests.helpers.checkouts import Checkout
from tests.helpers.ray_runs import (
    CLUSTER,
    HoldingTracker,
    Run,
    assert_same_steps,
    history,
    kill_node,
    logged_epochs,
    new_run,
    processes,
    wait_for_steps,
    workers,
)
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow

EPOCHS = 40  # that leave time for a node to come and go


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: None, reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run of two workers in which nothing failed."""
    run = new_run(reproduced, tmp_path_factory.mktemp("undisturbed"))
    launch(run.config, "undisturbed", run.tracker)
    return run


def test_two_workers_train_and_mlflow_has_every_epoch(undisturbed: Run) -> None:
    rows = history(undisturbed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["workers"] == 2 for row in rows)
    assert logged_epochs(undisturbed) == [1, 2, 3, 4, 5, 6]


def test_a_worker_killed_amid_an_epoch_is_replaced_and_every_step_is_that_of_an_undisturbed_run(
    undisturbed: Run, reproduced: Checkout, tmp_path: Path
) -> None:
    run = new_run(reproduced, tmp_path)
    kill = threading.Thread(target=kill_a_training_worker, args=(run.config, 6))
    kill.start()
    launch(run.config, "killed", run.tracker)
    kill.join(60)
    assert [row["epoch"] for row in history(run)] == [1, 2, 3, 4, 5, 6]
    assert logged_epochs(run) == [1, 2, 3, 4, 5, 6]
    assert_same_steps(run, undisturbed)


def test_a_loss_that_is_not_finite_stops_training_at_once(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, complains: Any
) -> None:
    run = new_run(reproduced, tmp_path)
    wild = {"learning_rate": 1e20, "max_grad_norm": 1e20, "warmup_fraction": 0.0}
    config = replace(run.config, params=run.config.params.model_copy(update=wild))
    with complains("the loss is nan in epoch 1, step 2", "distill.learning_rate"):
        launch(config, "wild", run.tracker)
    stopped = json.loads(config.run.read("stopped-rank-0.json"))
    assert (stopped["step"], len(stopped["keys"])) == (2, 14)


def kill_a_training_worker(config: TrainConfig, after: int) -> None:
    """Sends SIGKILL once so many steps are logged."""
    wait_for_steps(config, after)
    os.kill(processes("RayTrainWorker")[-1].pid, signal.SIGKILL)


def test_training_goes_on_with_the_machines_that_are_left_and_takes_new_ones(
    ray_cluster: None,
    reproduced: Checkout,
    cluster: LocalCluster,
    cluster_home: Checkout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL of a whole node amid an epoch; then another one joins."""
    monkeypatch.setattr(pipeline.runtime.ray_train, "RESIZE_S", 2.0)
    # the new node stays for other tests: as many threads as its neighbours, or it rounds otherwise
    monkeypatch.setenv("OMP_NUM_THREADS", cluster_home.environment["OMP_NUM_THREADS"])
    run = new_run(reproduced, tmp_path, epochs=EPOCHS, kind=HoldingTracker)
    assert isinstance(run.tracker, HoldingTracker)
    run.tracker.gate = tmp_path / "gate"
    elastic = CLUSTER.model_copy(update={"num_workers": (1, 2)})

    def disturb() -> None:
        wait_for_steps(run.config, 6)
        kill_node(cluster)
        wait_for(lambda: workers(run)[-1] == 1)
        run.tracker.gate.touch()
        add_node(Layout(cluster_home.path).local_cluster, cluster, cpus=1)
        run.tracker.gate.unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    launch(replace(run.config, cluster=elastic), "elastic", run.tracker)
    thread.join(60)
    seen = [count for count, _ in groupby(workers(run))]
    assert seen == [2, 1, 2]
    assert [row["epoch"] for row in history(run)] == logged_epochs(run) == [*range(1, EPOCHS + 1)]
    alone = new_run(reproduced, tmp_path / "alone", epochs=EPOCHS)
    train(alone.config, lambda _: None)
    assert_same_steps(run, alone, within=1e-4)
