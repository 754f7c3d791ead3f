"""Distillation on a real Ray cluster of this machine, with real failures."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

import pipeline.runtime.ray_train
from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.cluster.local import LocalCluster, add_node
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import write_teacher_shards
from pipeline.runtime.ray_session import set_ray_environment
from pipeline.storage.storage import open_storage
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics
from pipeline.training.step_log import read_steps
from tests.helpers.checkouts import Checkout

pytestmark = pytest.mark.slow

CLUSTER = ClusterParams(mode="local", num_workers=2, max_failures=2, checkpoint_every=2)
EPOCHS = 40  # that leave time for a node to come and go


@pytest.fixture(scope="module")
def ray_cluster(cluster: LocalCluster, root: Path) -> Iterator[None]:
    """This process as a driver on the two nodes."""
    environment = set_ray_environment() | {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",  # on every node, as another number rounds in another way
        # Ray notices late that a node is gone, and waits for workers that nobody starts
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    }
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address=cluster.gcs, logging_level=logging.WARNING, runtime_env={"env_vars": environment}
    )
    yield
    ray.shutdown()


class Run(NamedTuple):
    """Attributes: what was trained, and who heard of its epochs."""

    config: TrainConfig
    tracker: LiveTracker


def new_run(
    checkout: Checkout, folder: Path, epochs: int = 6, kind: type[LiveTracker] = LiveTracker
) -> Run:
    """Epochs of four steps, none of them taken yet."""
    layout = Layout(checkout.path)
    params = load_params(layout.params)
    identity = read_teacher_identity(layout.teacher)
    config = TrainConfig(
        params=params.distill.model_copy(update={"epochs": epochs}),
        images=layout.images,
        embeddings=layout.embeddings,
        identities={s: cache_identity(identity, params.embed, s) for s in ("train", "val")},
        run=open_storage(str(folder / "run")),
        cluster=CLUSTER,
    )
    target = TrackingTarget(f"sqlite:///{folder / 'mlflow.db'}", "kdeov", folder.as_uri())
    tracker = kind(target, "f" * 16, "a-run", {"epochs": epochs}, {})
    tracker.start()
    return Run(config, tracker)


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: None, reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    run = new_run(reproduced, tmp_path_factory.mktemp("undisturbed"))
    launch(run.config, "undisturbed", run.tracker)
    return run


def history(run: Run) -> list[dict[str, float]]:
    state = run.config.checkpoints.latest()
    assert state is not None
    return state["history"]


def logged_epochs(run: Run) -> list[int]:
    client = run.tracker.target.client()
    (found,) = client.search_runs(["1"])
    points = client.get_metric_history(found.info.run_id, "train/total")
    # one told late is drawn in its place all the same
    return sorted(point.step for point in points)


def test_two_workers_train_and_mlflow_hears_of_every_epoch(undisturbed: Run) -> None:
    rows = history(undisturbed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["workers"] == 2 for row in rows)
    assert logged_epochs(undisturbed) == [1, 2, 3, 4, 5, 6]


def test_a_worker_killed_amid_an_epoch_is_replaced_and_every_step_is_that_of_an_undisturbed_run(
    undisturbed: Run, reproduced: Checkout, tmp_path: Path
) -> None:
    run = new_run(reproduced, tmp_path)
    murder = threading.Thread(target=kill_a_training_worker, args=(run.config, 6))
    murder.start()
    launch(run.config, "killed", run.tracker)
    murder.join()
    assert [row["epoch"] for row in history(run)] == [1, 2, 3, 4, 5, 6]
    assert logged_epochs(run) == [1, 2, 3, 4, 5, 6]
    assert_same_steps(run, undisturbed)


def test_a_loss_that_is_no_number_is_told_at_once_and_not_tried_again(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, complains: Any
) -> None:
    run = new_run(reproduced, tmp_path)
    wild = {"learning_rate": 1e20, "max_grad_norm": 1e20, "warmup_fraction": 0.0}
    config = replace(run.config, params=run.config.params.model_copy(update=wild))
    with complains("the loss is nan in epoch 1, step 2", "distill.learning_rate"):
        launch(config, "wild", run.tracker)
    stopped = json.loads(config.run.read("stopped-rank-0.json"))
    assert (stopped["step"], len(stopped["keys"])) == (2, 14)


def assert_same_steps(run: Run, undisturbed: Run, within: float = 1e-6) -> None:
    expected = read_steps(undisturbed.config.run / "steps")
    found = read_steps(run.config.run / "steps")
    assert len(found) == len(expected) == 4 * run.config.params.epochs
    for step, ours in zip(expected, found, strict=True):
        assert (ours.epoch, ours.step, ours.keys) == (step.epoch, step.step, step.keys)
        assert ours.loss == pytest.approx(step.loss, abs=within)


def wait_for_steps(config: TrainConfig, count: int) -> None:
    wait_for(lambda: len(read_steps(config.run / "steps")) >= count)


def kill_a_training_worker(config: TrainConfig, after: int) -> None:
    """A real SIGKILL once some steps are in a checkpoint."""
    wait_for_steps(config, after)
    os.kill(processes("RayTrainWorker")[-1].pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_embeds_to_the_same_bytes(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, workers: int
) -> None:
    embed_on_ray(reproduced, tmp_path, workers)
    assert tars(tmp_path) == tars(reproduced.path / "out" / "embeddings")


def test_an_embedding_worker_that_is_killed_costs_its_shard_alone(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path
) -> None:
    def murder() -> None:
        wait_for(lambda: any((tmp_path / "train").glob("*.json")))
        finished.update({p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")})
        wait_for(lambda: processes("RayEmbedWorker.run"))  # it may be between two shards
        os.kill(processes("RayEmbedWorker.run")[0].pid, signal.SIGKILL)
        killed.set()

    finished: dict[Path, int] = {}
    killed = threading.Event()
    thread = threading.Thread(target=murder)
    thread.start()
    embed_on_ray(reproduced, tmp_path, workers=1, views=40)
    thread.join()
    assert killed.is_set() and finished
    assert all(path.stat().st_mtime_ns == age for path, age in finished.items())
    embed_inline = tmp_path.with_name("inline")
    embed_on_ray(reproduced, embed_inline, workers=1, views=40, mode="inline")
    assert tars(tmp_path) == tars(embed_inline)


def test_a_damaged_image_on_a_worker_is_told_in_one_line(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, complains: Any
) -> None:
    shutil.copytree(reproduced.path / "out" / "images", tmp_path / "images")
    path = tmp_path / "images" / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[:-700])
    params = load_params(reproduced.path / "params.yaml")
    teacher = reproduced.path / "out" / "teacher"
    with complains(path, "its bytes differ from the manifest", "dvc repro -f prepare"):
        write_teacher_shards(params.embed, CLUSTER, tmp_path / "images", teacher, tmp_path / "out")


def embed_on_ray(
    checkout: Checkout, out: Path, workers: int, views: int | None = None, mode: Any = "local"
) -> None:
    layout = Layout(checkout.path)
    params = load_params(layout.params).embed
    params = params.model_copy(update={"views": views or params.views})
    cluster = CLUSTER.model_copy(update={"num_workers": workers, "mode": mode})
    write_teacher_shards(params, cluster, layout.images, layout.teacher, out)


def tars(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.tar"))}


def processes(name: str) -> list[psutil.Process]:
    """Ray's workers that do something of this name."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if name in " ".join(p.info["cmdline"] or [])]


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class HoldingTracker(LiveTracker):
    """Ray's controller, and training with it, waits after an epoch while a file is there."""

    gate: Path

    def log_epoch(self, row: EpochMetrics) -> None:
        while self.gate.exists():
            time.sleep(0.1)
        super().log_epoch(row)


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
    thread.join()
    seen = [count for count, _ in groupby(workers(run))]
    assert seen == [2, 1, 2]
    assert [row["epoch"] for row in history(run)] == logged_epochs(run) == [*range(1, EPOCHS + 1)]
    alone = new_run(reproduced, tmp_path / "alone", epochs=EPOCHS)
    with threads(1):
        train(alone.config, lambda _: None)
    assert_same_steps(run, alone, within=1e-4)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def workers(run: Run) -> list[int]:
    """How many took each step."""
    return [step.workers for step in read_steps(run.config.run / "steps")] or [0]


def kill_node(cluster: LocalCluster) -> None:
    """A real SIGKILL of the last node and all of its processes, as when a machine loses power."""
    node = cluster.alive[-1]
    for process in [*node.children(recursive=True), node]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
