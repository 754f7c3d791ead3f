"""Distillation on a real Ray cluster of this machine, with real failures."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest_end_to_end import Checkout

from pipeline.checkpoints import CheckpointStore
from pipeline.identity import cache_identity
from pipeline.launch import launch, ray_session
from pipeline.layout import Layout
from pipeline.params import ClusterParams, load_params
from pipeline.teacher import read_teacher_identity
from pipeline.tracking import LiveTracker, TrackingTarget
from pipeline.trainer import TrainConfig

pytestmark = pytest.mark.slow

CLUSTER = ClusterParams(mode="local", workers=2, max_failures=2)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all of these tests: it takes most of a minute to start."""
    with ray_session(2):
        yield


@pytest.fixture
def config(reproduced: Checkout, tmp_path: Path) -> TrainConfig:
    layout = Layout(reproduced.path)
    params = load_params(layout.params)
    identity = read_teacher_identity(layout.teacher)
    identities = {s: cache_identity(identity, params.embed, s) for s in ("train", "val")}
    return TrainConfig(
        params.distill,
        layout.images,
        layout.embeddings,
        identities,
        tmp_path / "run",
        use_gpu=False,
    )


@pytest.fixture
def tracker(tmp_path: Path) -> LiveTracker:
    target = TrackingTarget(f"sqlite:///{tmp_path / 'mlflow.db'}", "kdeov", tmp_path.as_uri())
    tracker = LiveTracker(target, "f" * 16, "a-run", {"epochs": 3}, {})
    tracker.start()
    return tracker


def history(config: TrainConfig) -> list[dict[str, float]]:
    state = CheckpointStore(config.run / "checkpoints").latest()
    assert state is not None
    return state["history"]


def logged_epochs(tracker: LiveTracker) -> list[int]:
    client = tracker.target.client()
    (run,) = client.search_runs(["1"])
    points = client.get_metric_history(run.info.run_id, "train/total")
    return sorted(
        point.step for point in points
    )  # one told late is drawn in its place all the same


def test_two_workers_train_and_mlflow_hears_of_every_epoch(
    ray_cluster: None, config: TrainConfig, tracker: LiveTracker
) -> None:
    launch(config, CLUSTER, "pair", tracker)
    rows = history(config)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["workers"] == 2 for row in rows)
    assert logged_epochs(tracker) == [1, 2, 3]


def test_a_killed_worker_is_replaced_and_no_epoch_is_lost(
    ray_cluster: None, config: TrainConfig, tracker: LiveTracker
) -> None:
    config = replace(config, params=config.params.model_copy(update={"epochs": 6}))
    killed = threading.Event()
    murder = threading.Thread(target=kill_a_worker_after_an_epoch, args=(config, killed))
    murder.start()
    launch(config, CLUSTER, "killed", tracker)
    murder.join()
    assert killed.is_set()
    assert [row["epoch"] for row in history(config)] == [1, 2, 3, 4, 5, 6]
    assert logged_epochs(tracker) == [1, 2, 3, 4, 5, 6]


def kill_a_worker_after_an_epoch(config: TrainConfig, killed: threading.Event) -> None:
    wait_for(lambda: list(config.run.glob("checkpoints/epoch-*.pt")))
    processes = psutil.process_iter(["cmdline"])
    workers = [p for p in processes if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    os.kill(workers[-1].pid, signal.SIGKILL)
    killed.set()


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
