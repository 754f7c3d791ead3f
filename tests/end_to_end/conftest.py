"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.local import LocalCluster
from pipeline.config.paths import Layout
from tests.helpers.checkouts import Checkout, new_checkout, reproduced
from tests.helpers.mlflow_runs import log
from tests.helpers.mlflow_servers import mlflow_server
from tests.helpers.ray_runs import ray_cluster

__all__ = ["log", "mlflow_server", "new_checkout", "ray_cluster", "reproduced"]


@pytest.fixture(scope="session")
def cluster_home(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Folder in which the cluster is started and ended."""
    return Checkout(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def cluster(cluster_home: Checkout) -> Iterator[LocalCluster]:
    """One Ray cluster of two nodes for all tests, as starting one takes most of a minute; started
    and ended by `kdeov cluster`.
    """
    home, folder = cluster_home, Layout(cluster_home.path).local_cluster
    # a proxy of the environment, which leads nowhere, is not asked for this machine
    started = home.run(
        "env", "http_proxy=http://127.0.0.1:9",
        "kdeov", "cluster", "up", "--nodes", "2", "--cpus", "1",
    )  # fmt: skip
    found = re.search(r"(http://127\.0\.0\.1:\d+)", started.stdout)
    assert found, started.stdout
    nodes = LocalCluster.read(folder)
    assert nodes is not None and nodes.address == found[1] and len(nodes.alive) == 2
    try:
        again = home.run("kdeov", "cluster", "up", check=False)
        assert again.returncode == 1 and found[1] in again.stderr
        yield nodes
    finally:
        home.run("kdeov", "cluster", "down")
        assert nodes.alive == [] and not Path(nodes.temporary).exists()
        left = [p for p in psutil.process_iter(["cmdline"]) if nodes.temporary in
                " ".join(p.info["cmdline"] or ())]  # fmt: skip
        assert left == []
