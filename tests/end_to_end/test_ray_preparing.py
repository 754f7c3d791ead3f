"""Preparing on a real Ray cluster: any number of workers, any deaths, the same bytes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import load_params
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.identity import versions
from pipeline.prepare.plan import ShardPlan
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.sources import open_source
from pipeline.prepare.worker import PrepareConfig, RayPrepareWorker
from pipeline.runtime.pool import Pool
from pipeline.runtime.ray_session import one_line_errors_of_ray
from tests.helpers.ray_runs import CLUSTER, processes
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow
INLINE = ClusterParams(mode="inline")


@pytest.fixture(scope="module")
def many(root: Path) -> PrepareParams:
    """Params of shards that take some seconds on one worker."""
    section = load_params(root / "params.yaml").prepare
    assert section.scenes is not None
    scenes = section.scenes.model_copy(update={"train": 1200, "val": 32, "test": 64})
    return section.model_copy(update={"scenes": scenes, "samples_per_shard": 20})


@pytest.fixture(scope="module")
def expected(many: PrepareParams, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("inline") / "images"
    write_image_shards(many, out, INLINE)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("workers", [1, 2, 4])  # two find a CPU, and four take turns
def test_any_number_of_workers_prepares_to_the_same_bytes(
    ray_cluster: None,
    many: PrepareParams,
    expected: dict[str, bytes],
    tmp_path: Path,
    workers: int,
) -> None:
    write_image_shards(many, tmp_path / "out", CLUSTER, workers=workers)
    assert contents(tmp_path / "out") == expected


def test_a_worker_that_is_killed_costs_its_shard_alone(
    ray_cluster: None, many: PrepareParams, expected: dict[str, bytes], tmp_path: Path
) -> None:
    def kill() -> None:
        wait_for(lambda: any((tmp_path / "train").glob("*.record.json")), poll_s=0.01)
        finished.update({p: p.stat().st_mtime_ns for p in tmp_path.rglob("0*.json")})
        found = wait_for(workers, poll_s=0.01)
        os.kill(found[0].pid, signal.SIGKILL)
        killed.set()

    def workers() -> list[psutil.Process]:
        return processes("RayPrepareWorker.run")  # it may be between two shards

    finished: dict[Path, int] = {}
    killed = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    write_image_shards(many, tmp_path, CLUSTER, workers=2)
    thread.join(60)
    assert killed.is_set() and finished
    assert all(path.stat().st_mtime_ns == age for path, age in finished.items())
    assert contents(tmp_path) == expected


def test_a_worker_of_another_version_is_reported_in_one_line(
    ray_cluster: None, many: PrepareParams, tmp_path: Path, complains: Callable[..., Any]
) -> None:
    import ray

    source = open_source(many)
    plan = ShardPlan(many.source, None, source, ShardFolder(tmp_path), many.samples_per_shard)
    config = PrepareConfig(source.make, versions() | {"pillow": "0.1"})
    kind = ray.remote(RayPrepareWorker).options(num_cpus=1)
    with complains("a worker on", "pillow", "not 0.1"), one_line_errors_of_ray():
        list(Pool(plan, kind, config, 2, 2).run(lambda _: None))
    assert not [*tmp_path.rglob("*.tar")]
