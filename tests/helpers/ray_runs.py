"""Training runs on a real Ray cluster: starting them, reading steps, and killing processes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from pipeline.artifacts.identity import cache_identity, read_teacher_identity, shown_classes
from pipeline.artifacts.step_curve import read_steps
from pipeline.cluster.local import LocalCluster
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.runtime.ray_session import set_ray_environment
from pipeline.storage.storage import open_storage
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from pipeline.training.config import TrainConfig
from pipeline.training.state import EpochMetrics
from tests.helpers.checkouts import Checkout
from tests.helpers.waiting import wait_for

CLUSTER = ClusterParams(mode="local", num_workers=2, max_failures=2)


@pytest.fixture(scope="module")
def ray_cluster(cluster: LocalCluster, root: Path) -> Iterator[None]:
    """This process as a driver of the two nodes."""
    environment = set_ray_environment() | {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",  # on every node, as another number rounds in another way
        # Ray notices late that a node is gone, and waits for workers that will not start
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    }
    import ray

    ray.init(
        address=cluster.gcs, logging_level=logging.WARNING, runtime_env={"env_vars": environment}
    )
    yield
    ray.shutdown()


class Run(NamedTuple):
    """Attributes: config of a training run, and the tracker of its epochs."""

    config: TrainConfig
    tracker: LiveTracker


def new_run(
    checkout: Checkout, folder: Path, epochs: int = 6, kind: type[LiveTracker] = LiveTracker
) -> Run:
    """Epochs of four steps, none of them taken yet."""
    layout = Layout(checkout.path)
    params = load_params(layout.params)
    identity = read_teacher_identity(layout.teacher)
    classes = shown_classes(params.embed, layout.images)
    config = TrainConfig(
        params=params.distill.model_copy(update={"epochs": epochs}),
        images=layout.images,
        embeddings=layout.embeddings,
        identities={
            split: cache_identity(identity, params.embed, split, classes)
            for split in ("train", "val")
        },
        run=open_storage(str(folder / "run")),
        cluster=CLUSTER.model_copy(update={"use_gpu": False, "checkpoint_every": 2}),
    )
    target = TrackingTarget(f"sqlite:///{folder / 'mlflow.db'}", "kdeov", folder.as_uri())
    tracker = kind(target, "f" * 16, "a-run", {"epochs": epochs}, {})
    tracker.start()
    return Run(config, tracker)


def history(run: Run) -> list[dict[str, float]]:
    """Metrics of each epoch, from the latest checkpoint."""
    state = run.config.checkpoints.latest()
    assert state is not None
    return state["history"]


def logged_epochs(run: Run) -> list[int]:
    """Epochs that MLflow has, in order; one logged late comes in its place."""
    client = run.tracker.target.client()
    (found,) = client.search_runs(["1"])
    points = client.get_metric_history(found.info.run_id, "train/total")
    return sorted(point.step for point in points)


def assert_same_steps(run: Run, undisturbed: Run, within: float = 1e-6) -> None:
    """The same samples at every step, and losses equal within a bound."""
    expected = read_steps(undisturbed.config.run / "steps")
    found = read_steps(run.config.run / "steps")
    assert len(found) == len(expected) == 4 * run.config.params.epochs
    for step, ours in zip(expected, found, strict=True):
        assert (ours.epoch, ours.step, ours.keys) == (step.epoch, step.step, step.keys)
        assert ours.loss == pytest.approx(step.loss, abs=within)


def wait_for_steps(config: TrainConfig, count: int) -> None:
    """Waits until so many steps are logged."""
    wait_for(lambda: len(read_steps(config.run / "steps")) >= count)


def tars(folder: Path) -> dict[str, bytes]:
    """Bytes of all tars below a folder, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.tar"))}


def processes(name: str) -> list[psutil.Process]:
    """Processes of Ray with this name in their command line."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if name in " ".join(p.info["cmdline"] or [])]


class HoldingTracker(LiveTracker):
    """Holds Ray's controller, and so training, after an epoch while a file exists."""

    gate: Path

    def log_epoch(self, row: EpochMetrics) -> None:
        wait_for(lambda: not self.gate.exists())
        super().log_epoch(row)


def workers(run: Run) -> list[int]:
    """Number of workers at each step."""
    return [step.workers for step in read_steps(run.config.run / "steps")] or [0]


def kill_node(cluster: LocalCluster) -> None:
    """A real SIGKILL of the last node and all of its processes, as when a machine loses power."""
    node = cluster.alive[-1]
    for process in [*node.children(recursive=True), node]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
