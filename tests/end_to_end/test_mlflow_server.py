"""A real MLflow server over HTTP: one run a fingerprint and each epoch once, whatever dies."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from tests.helpers import ROOT
from tests.helpers.mlflow_runs import points, row, runs, tracker
from tests.helpers.mlflow_servers import MlflowServer
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def test_every_epoch_is_logged_once_with_its_number_of_workers(mlflow_server: MlflowServer) -> None:
    uri = mlflow_server.uri
    first = tracker(uri, "a" * 16)
    first.start()
    first.log_epoch(row(1))
    first.log_epoch(row(2))
    first.log_epoch(row(2))  # a worker was killed after its report and before its checkpoint
    first.log_epoch(row(3, workers=1))
    first.log_epochs([row(1), row(2), row(3)])
    (run,) = runs(uri, "a" * 16)
    assert points(uri, run) == {1: 1, 2: 1 / 2, 3: 1 / 3}
    assert points(uri, run, "workload/workers") == {1: 2, 2: 2, 3: 1}
    assert run.data.params == {"a.b": "1"}


def test_nan_and_infinity_are_logged(mlflow_server: MlflowServer) -> None:
    uri = mlflow_server.uri
    live = tracker(uri, "b" * 16)
    live.log_epoch(row(1, val_cosine=math.nan, val_loss=math.inf))
    (run,) = runs(uri, "b" * 16)
    assert math.isnan(points(uri, run, "val/cosine")[1])
    assert points(uri, run, "val/loss")[1] >= sys.float_info.max
    live.log_epochs([row(1, val_cosine=math.nan, val_loss=math.inf)])
    assert len(points(uri, run, "val/cosine")) == 1


def test_a_driver_killed_at_any_moment_and_started_again_logs_every_epoch_once(
    mlflow_server: MlflowServer,
) -> None:
    script = f"""
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
target = TrackingTarget({mlflow_server.uri!r}, "kdeov", None)
tracker = LiveTracker(target, "c" * 16, "run", {{}}, {{}})
for epoch in range(1, 401):
    tracker.log_epoch({{"epoch": epoch, "train_total": 1 / epoch}})
"""
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)

    def three_epochs_are_there() -> bool:
        assert driver.poll() is None
        found = MlflowClient(mlflow_server.uri).get_experiment_by_name("kdeov") and runs(
            mlflow_server.uri, "c" * 16
        )
        return bool(found) and len(points(mlflow_server.uri, found[0])) >= 3

    try:
        wait_for(three_epochs_are_there)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)
    again = tracker(mlflow_server.uri, "c" * 16)
    again.start()
    again.log_epochs([row(epoch) for epoch in range(1, 401)])
    (run,) = runs(mlflow_server.uri, "c" * 16)
    assert list(points(mlflow_server.uri, run)) == list(range(1, 401))


def test_two_drivers_that_start_at_once_end_with_one_experiment_and_one_run(
    mlflow_server: MlflowServer,
) -> None:
    uri = mlflow_server.uri
    barrier = threading.Barrier(4)

    def drive(number: int) -> None:
        live = tracker(uri, "d" * 16, "at once")
        barrier.wait(60)
        live.start()
        barrier.wait(60)
        live.log_epochs([row(number + 1)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, range(4)))
    (run,) = runs(uri, "d" * 16, "at once")
    assert set(points(uri, run)) == {1, 2, 3, 4}
