"""The doctor on real nodes of Ray, of which one has mounts of its own, and with a real MLflow."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import object_name
from pipeline.cluster.compat import RAY_COMMAND
from pipeline.cluster.local import LocalCluster
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.doctor.machines import local_cluster
from pipeline.doctor.tracker import mlflow
from pipeline.runtime.ray_session import set_ray_environment
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_servers import MlflowServer
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow

IN_A_JOB = """
import sys
from pipeline.runtime.ray_session import set_ray_environment

environment = set_ray_environment()
import ray
from kdeov.errors import KdeovError
from pipeline.doctor import training
from pipeline.doctor.examine import preflight
from pipeline.doctor.node import NodeFacts
from pipeline.config.paths import Layout
from pipeline.config.params import load_params

gcs, root = sys.argv[1:]
environment["PYTHONPATH"] = root
ray.init(address=gcs, log_to_driver=False, runtime_env={"env_vars": environment})
layout = Layout.here()
params = load_params(layout.params)
(check,) = training.data_rate(params, layout, [NodeFacts("a", cpus=2)])
print(check.name, check.text)
try:
    preflight(params, layout)
except KdeovError as error:
    print(error)
"""


class Nodes(NamedTuple):
    """Three nodes of Ray, of which one differs from the others.

    Attributes:
        gcs: Address for drivers.
        private: A path that is another folder on the odd node.
        shared: A folder that is the same on all nodes.
    """

    gcs: str
    private: Path
    shared: Path


@pytest.fixture(scope="module")
def laptop(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which everything has run."""
    checkout = Checkout(tmp_path_factory.mktemp("laptop") / "checkout")
    shutil.copytree(reproduced.path, checkout.path, symlinks=True)
    return checkout


@pytest.fixture(scope="module")
def nodes(
    cluster: LocalCluster, laptop: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    """The cluster of all tests and, for these, one node more. It has a disk of its own at
    `private`, another timm, and another line of code; the laptop's params name the cluster and both
    folders.
    """
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounts of one process alone (unshare -m) are not permitted here")
    folder = tmp_path_factory.mktemp("nodes")
    private, shared = folder / "private", folder / "shared"
    (private / "shards").mkdir(parents=True)
    shared.mkdir()
    for manifest in laptop.path.glob("out/*/*/manifest.json"):
        for shard in Manifest.read(manifest.parent).shards:
            shutil.copy(manifest.parent / shard.name, private / object_name(shard))
    files = importlib.metadata.distribution("timm").files or []
    (metadata,) = [file.locate() for file in files if file.name == "METADATA"]
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: timm\nVersion: 0.0.1\n", encoding="utf-8"
    )
    code = laptop.path / "pipeline" / "doctor" / "__init__.py"
    (folder / "code.py").write_text(
        code.read_text(encoding="utf-8") + "# another version\n", encoding="utf-8"
    )
    mounts = [
        ["mount", "-t", "tmpfs", "none", str(private)],
        ["mount", "--bind", str(folder / "METADATA"), str(metadata)],
        ["mount", "--bind", str(folder / "code.py"), str(code)],
    ]
    start = [
        "exec", *RAY_COMMAND, "start", "--block", "--num-cpus=1", f"--address={cluster.gcs}",
        "--node-ip-address=127.0.0.99", "--min-worker-port=0", "--max-worker-port=0",
        "--object-store-memory=100000000", "--dashboard-agent-listen-port=0",
    ]  # fmt: skip
    script = "\n".join(map(shlex.join, [*mounts, start]))
    log = folder / "log"
    with open(log, "wb") as file:
        odd = subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", script], env=os.environ | set_ray_environment(),
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(
            lambda: (
                "Ray runtime started" in log.read_text(encoding="utf-8") or odd.poll() is not None
            ),
            log,
        )
        assert odd.poll() is None, log.read_text(encoding="utf-8")
        where = {"mode": "cluster", "address": cluster.address, "storage": str(shared)}
        laptop.change({"data": {"storage": str(private)}, "cluster": {**where, "num_workers": 2}})
        yield Nodes(cluster.gcs, private, shared)
    finally:
        odd.send_signal(signal.SIGTERM)
        odd.wait(60)


@pytest.fixture(scope="module")
def lines(laptop: Checkout, nodes: Nodes) -> dict[str, str]:
    """Lines of `kdeov doctor` on the laptop, by the name of the check."""
    result = laptop.run("kdeov", "doctor", check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    return {line[8:].split()[0]: line for line in result.stdout.splitlines()[:-1]}


def test_a_folder_that_a_node_does_not_share_is_refused_and_the_node_is_named(
    lines: dict[str, str], nodes: Nodes
) -> None:
    line = lines["data.storage"]
    assert line.startswith("error ") and f"{nodes.private} is not shared" in line
    assert re.search(r"\([0-9a-f]{6}\) does not see", line)
    assert lines["cluster.storage"].startswith("ok ")
    assert f"{nodes.shared} is read and written by 3 nodes" in lines["cluster.storage"]


def test_shards_that_a_node_does_not_see_are_named(lines: dict[str, str]) -> None:
    assert lines["shards"].startswith("error ")
    assert re.search(r"\([0-9a-f]{6}\): .*\.tar is missing", lines["shards"])


def test_a_node_with_another_package_is_named_with_both_versions(
    lines: dict[str, str],
) -> None:
    assert lines["versions"].startswith("error ")
    usual = importlib.metadata.version("timm")
    assert re.search(rf"\) has timm 0\.0\.1, others have {usual}; install", lines["versions"])


def test_the_rest_of_the_cluster_is_sound(lines: dict[str, str]) -> None:
    assert lines["clock"].startswith("ok ") and "3 nodes within" in lines["clock"]
    assert lines["devices"].startswith("ok ") and "3 CPUs, 0 GPUs" in lines["devices"]
    for name in ("disk", "teacher", "training"):
        assert lines[name].startswith("ok "), lines[name]


def test_nothing_is_left_anywhere(lines: dict[str, str], nodes: Nodes) -> None:
    assert [path.name for path in nodes.private.iterdir()] == ["shards"]
    assert list(nodes.shared.iterdir()) == []


def test_a_job_measures_on_the_cluster_and_is_refused_in_one_line(
    laptop: Checkout, nodes: Nodes
) -> None:
    result = laptop.run("python", "-c", IN_A_JOB, nodes.gcs, str(laptop.path), check=False)
    assert result.returncode == 0, result.stderr
    rate, refusal = result.stdout.splitlines()
    assert re.match(r"data rate .* [\d,]+ images/s", rate)
    assert refusal.startswith("nothing was started, 4 errors: ")
    for word in ("has timm 0.0.1", "has code ", "is not shared", "is missing"):
        assert word in refusal


def test_the_ports_of_a_local_cluster_that_other_machines_reach_are_named(
    cluster: LocalCluster, cluster_home: Checkout
) -> None:
    nodes = [p for node in cluster.alive for p in (node, *node.children(recursive=True))]
    addresses = {
        c.laddr.port: c.laddr.ip
        for p in nodes
        for c in p.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    (check,) = local_cluster(Layout(cluster_home.path))
    named = {int(port) for port in re.findall(r"\b\d{4,5}\b", check.finding)}
    assert check.verdict == "warning" and "kdeov cluster down" in check.fix
    assert named and {addresses[port] for port in named} <= {"0.0.0.0", "::"}
    assert int(cluster.address.rpartition(":")[2]) not in named


def test_a_real_mlflow_server_is_written_and_keeps_nothing(
    mlflow_server: MlflowServer, reproduced: Checkout
) -> None:
    layout = Layout(reproduced.path)
    params = load_params(layout.params)
    tracking = params.tracking.model_copy(update={"uri": mlflow_server.uri})
    client = MlflowClient(mlflow_server.uri)

    def kept() -> Any:
        found = client.search_experiments(view_type=ViewType.ALL)
        return [(experiment.name, experiment.tags) for experiment in found]

    before = kept()
    (check,) = mlflow(params.model_copy(update={"tracking": tracking}), layout)
    assert check.verdict == "ok", check.text
    assert before and kept() == before
