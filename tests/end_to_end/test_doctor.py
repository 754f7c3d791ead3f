"""The doctor on two real nodes of Ray, of which one has mounts of its own."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest_end_to_end import Checkout, wait_for

import pipeline.doctor
from pipeline.doctor import training
from pipeline.doctor.check import Check
from pipeline.doctor.examine import examine_run, preflight
from pipeline.doctor.node import NodeFacts
from pipeline.layout import Layout
from pipeline.params import Params, load_params
from pipeline.shards import Manifest

pytestmark = pytest.mark.slow


class OddNode(NamedTuple):
    """A node of Ray that is not like the others.

    Attributes:
        name: As the doctor calls it.
        private: A folder that is another one there.
        shared: A folder that is the same everywhere.
    """

    name: str
    private: Path
    shared: Path


@pytest.fixture(scope="module")
def odd_node(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddNode]:
    """Has another disk at `private`, another timm and another line in this project's code."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounts for one process alone (unshare -m) are not permitted here")
    import ray

    folder = tmp_path_factory.mktemp("node")
    private, shared = folder / "private", folder / "shared"
    private.mkdir()
    shared.mkdir()
    files = importlib.metadata.distribution("timm").files or []
    (metadata,) = [file.locate() for file in files if file.name == "METADATA"]
    code = Path(str(pipeline.doctor.__file__))
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: timm\nVersion: 0.0.1\n")
    (folder / "code.py").write_text(code.read_text() + "# another version\n")
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1",
        f"--address={ray.get_runtime_context().gcs_address}", "--node-ip-address=127.0.0.2",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    mounts = (
        ["mount", "-t", "tmpfs", "none", str(private)],
        ["mount", "--bind", str(folder / "METADATA"), str(metadata)],
        ["mount", "--bind", str(folder / "code.py"), str(code)],
        ["exec", *start],
    )
    known = {node["NodeID"] for node in ray.nodes()}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", "\n".join(map(shlex.join, mounts))],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def new() -> list[str]:
        assert process.poll() is None, (folder / "log").read_text()
        return [
            node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in known
        ]

    try:
        wait_for(new)
        yield OddNode(f"({new()[0][:6]})", private, shared)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def case(reproduced: Checkout, odd_node: OddNode) -> tuple[Params, Layout]:
    """Params of a cluster whose `data.storage` one node does not share."""
    layout = Layout(reproduced.path)
    params = load_params(layout.params)
    where = {"address": "http://127.0.0.1:8265", "storage": str(odd_node.shared)}
    cluster = params.cluster.model_copy(update={"mode": "cluster", "workers": 2, **where})
    data = params.data.model_copy(update={"storage": str(odd_node.private)})
    (odd_node.private / "shards").mkdir()
    for folder in (*layout.images.iterdir(), *layout.embeddings.iterdir()):
        if folder.is_dir():
            for shard in Manifest.read(folder, "prepare").shards:
                name = f"{shard.sha256}.tar"
                shutil.copy(folder / shard.name, odd_node.private / "shards" / name)
    return params.model_copy(update={"cluster": cluster, "data": data}), layout


@pytest.fixture(scope="module")
def checks(case: tuple[Params, Layout]) -> list[Check]:
    return examine_run(*case)


def faults(checks: list[Check], name: str) -> list[str]:
    return [check.text for check in checks if check.verdict == "fault" and check.name == name]


def test_a_folder_that_a_node_does_not_share_is_refused_and_the_node_is_named(
    checks: list[Check], odd_node: OddNode
) -> None:
    (text,) = faults(checks, "data.storage")
    assert f"{odd_node.private} is not shared" in text and odd_node.name in text
    assert "mount it on all nodes" in text
    (shared,) = [check for check in checks if check.name == "cluster.storage"]
    assert shared.verdict == "ok" and "by 2 nodes" in shared.found


def test_shards_that_a_node_does_not_see_are_named(checks: list[Check], odd_node: OddNode) -> None:
    (text,) = faults(checks, "shards")
    assert odd_node.name in text and "is missing" in text


def test_a_node_with_another_package_and_other_code_is_named_with_both_versions(
    checks: list[Check], odd_node: OddNode
) -> None:
    (versions,), (code,) = faults(checks, "versions"), faults(checks, "code")
    for text in (versions, code):
        assert odd_node.name in text
    assert "timm 0.0.1" in versions and importlib.metadata.version("timm") in versions


def test_two_nodes_on_one_machine_tell_the_same_time(checks: list[Check]) -> None:
    (clock,) = [check for check in checks if check.name == "clock"]
    assert clock.verdict == "ok" and "2 nodes within" in clock.found


def test_nothing_is_left_on_any_node(checks: list[Check], odd_node: OddNode) -> None:
    left = [path for path in odd_node.private.iterdir() if path.name != "shards"]
    assert left == [] and list(odd_node.shared.iterdir()) == []


def test_the_job_is_refused_in_one_line(
    case: tuple[Params, Layout], odd_node: OddNode, complains: Any
) -> None:
    with complains("nothing was started", "data.storage: ", "is not shared", odd_node.name):
        preflight(*case)


def test_the_rate_of_data_is_measured_on_the_cluster(case: tuple[Params, Layout]) -> None:
    (check,) = training.data_rate(*case, [NodeFacts("a", cpus=2)])
    assert check.name == "data rate" and "a worker trains" in check.found
