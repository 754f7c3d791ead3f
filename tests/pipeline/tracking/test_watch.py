"""Between epochs MLflow shows the loss by step and the load of the machine, each point once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from kdeov.errors import StorageError
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from pipeline.tracking.watch import STEP_LOSS, Points, RunWatcher, log_steps
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.mlflow_runs import points, row, runs
from tests.helpers.waiting import wait_for


class Curve:
    """A curve that grows by a point a call."""

    def __init__(self, first: int = 1, last: int = 10**9) -> None:
        self.next, self.last = first, last

    def __call__(self) -> Points:
        if self.next > self.last:
            return []
        self.next += 1
        return [(self.next - 1, 1 / (self.next - 1))]


def names(target: TrackingTarget, fingerprint: str) -> set[str]:
    (run,) = runs(target.uri, fingerprint)
    return set(run.data.metrics)


def test_steps_and_load_come_while_training_runs(
    with_database: WithDatabase, tmp_path: Path
) -> None:
    target = with_database(tmp_path)
    with (
        LiveTracker(target, "a" * 16, "run", {}, {}),
        RunWatcher(target, "a" * 16, Curve(), True, interval_s=0.05),
    ):
        wait_for(lambda: "system/cpu_utilization_percentage" in names(target, "a" * 16))
        (run,) = runs(target.uri, "a" * 16)
        assert run.info.status == "RUNNING"
    assert points(target.uri, run, STEP_LOSS)[2] == 1 / 2
    load = points(target.uri, run, "system/system_memory_usage_percentage")
    assert load and all(0 < value <= 100 for value in load.values())
    assert {"system/disk_usage_percentage", "system/network_receive_megabytes"} <= names(
        target, "a" * 16
    )
    assert not [t for t in threading.enumerate() if t.name == "kdeov-mlflow"]


def test_system_metrics_can_be_switched_off(with_database: WithDatabase, tmp_path: Path) -> None:
    target, curve = with_database(tmp_path), Curve(last=3)
    with (
        LiveTracker(target, "b" * 16, "run", {}, {}),
        RunWatcher(target, "b" * 16, curve, False, interval_s=0.02),
    ):
        wait_for(lambda: curve.next == 4)
    assert names(target, "b" * 16) == {STEP_LOSS}


def test_a_resumed_run_has_no_step_twice(with_database: WithDatabase, tmp_path: Path) -> None:
    target = with_database(tmp_path)
    for last in (3, 6):  # the second one reads the whole log again
        curve = Curve(last=last)
        with (
            LiveTracker(target, "c" * 16, "run", {}, {}),
            RunWatcher(target, "c" * 16, curve, True, interval_s=0.02),
        ):
            wait_for(lambda c=curve, n=last: c.next > n)  # type: ignore[misc]
    (run,) = runs(target.uri, "c" * 16)
    log_steps(MlflowClient(target.uri), run.info.run_id, [(n, 1 / n) for n in range(1, 9)])
    assert list(points(target.uri, run, STEP_LOSS)) == list(range(1, 9))
    assert points(target.uri, run, "system/cpu_utilization_percentage")  # no step twice


def test_mlflow_that_is_away_or_a_broken_log_ends_no_training(log: Any) -> None:
    looked = threading.Event()

    def curve() -> Points:
        looked.set()
        raise StorageError("the share is away")

    away = TrackingTarget("http://127.0.0.1:9", "kdeov", None)
    with RunWatcher(away, "d" * 16, curve, True, interval_s=0.02):
        assert looked.wait(60)
    with RunWatcher(None, "d" * 16, curve, True):
        pass
    assert not log.records


def test_a_deleted_experiment_ends_no_training(
    with_database: WithDatabase, tmp_path: Path, log: Any
) -> None:
    target, curve = with_database(tmp_path), Curve(last=3)
    with (
        LiveTracker(target, "e" * 16, "run", {}, {}) as tracker,
        RunWatcher(target, "e" * 16, curve, False, interval_s=0.02),
    ):
        client = target.client()
        client.delete_experiment(target.experiment_id(client))
        wait_for(lambda: curve.next == 4)
        tracker.log_epoch(row(1))
    (record,) = [r for r in log.records if r.levelname == "WARNING"]
    assert "mlflow experiments restore" in record.getMessage()
