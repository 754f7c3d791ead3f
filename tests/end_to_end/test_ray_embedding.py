"""Embedding on a real Ray cluster: any number of workers, any deaths, the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import write_teacher_shards
from tests.helpers.checkouts import Checkout
from tests.helpers.ray_runs import CLUSTER, processes, tars
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_embeds_to_the_same_bytes(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, workers: int
) -> None:
    embed_on_ray(reproduced, tmp_path, workers)
    assert tars(tmp_path) == tars(reproduced.path / "out" / "embeddings")


def test_an_embedding_worker_that_is_killed_costs_its_shard_alone(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path
) -> None:
    def kill() -> None:
        wait_for(lambda: any((tmp_path / "train").glob("*.json")))
        finished.update({p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")})
        wait_for(lambda: processes("RayEmbedWorker.run"))  # it may be between two shards
        os.kill(processes("RayEmbedWorker.run")[0].pid, signal.SIGKILL)
        killed.set()

    finished: dict[Path, int] = {}
    killed = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    embed_on_ray(reproduced, tmp_path, workers=1, views=40)
    thread.join(60)
    assert killed.is_set() and finished
    assert all(path.stat().st_mtime_ns == age for path, age in finished.items())
    embed_inline = tmp_path.with_name("inline")
    embed_on_ray(reproduced, embed_inline, workers=1, views=40, mode="inline")
    assert tars(tmp_path) == tars(embed_inline)


def test_a_damaged_shard_on_a_worker_is_reported_in_one_line(
    ray_cluster: None, reproduced: Checkout, tmp_path: Path, complains: Any
) -> None:
    shutil.copytree(reproduced.path / "out" / "images", tmp_path / "images")
    path = tmp_path / "images" / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[:-700])
    params = load_params(reproduced.path / "params.yaml")
    teacher = reproduced.path / "out" / "teacher"
    with complains(path, "dvc repro -f prepare"):
        write_teacher_shards(params.embed, CLUSTER, tmp_path / "images", teacher, tmp_path / "out")


def embed_on_ray(
    checkout: Checkout, out: Path, workers: int, views: int | None = None, mode: Any = "local"
) -> None:
    layout = Layout(checkout.path)
    params = load_params(layout.params).embed
    params = params.model_copy(update={"views": views or params.views})
    cluster = CLUSTER.model_copy(update={"num_workers": workers, "mode": mode})
    write_teacher_shards(params, cluster, layout.images, layout.teacher, out)
