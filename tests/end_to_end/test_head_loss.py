"""A cluster whose head is lost amid a job, and one without machines: the job goes on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.attempt import Attempt
from pipeline.cluster.local import LocalCluster, add_node, start_cluster, stop_cluster
from pipeline.storage.storage import open_storage
from tests.helpers.checkouts import Checkout
from tests.helpers.cluster_jobs import Command, jobs
from tests.helpers.s3_server import Forwarder
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

Start = Callable[[str, int], LocalCluster]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the head of a new cluster, with so many CPUs."""
    folders = []

    def run(name: str, cpus: int) -> LocalCluster:
        folders.append(tmp_path / name)
        return start_cluster(folders[-1], 1, cpus)

    yield run
    for folder in folders:
        stop_cluster(folder)


def kill(cluster: LocalCluster) -> None:
    """SIGKILL of all machines of a cluster, as a power failure does."""
    heads = cluster.alive
    for process in [p for head in heads for p in (*head.children(recursive=True), head)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(heads, timeout=60)


def port_of(cluster: LocalCluster) -> int:
    return int(cluster.address.rpartition(":")[2])


@pytest.fixture
def laptop(reproduced: Checkout, tmp_path: Path) -> Checkout:
    """A checkout whose teacher embeddings are still to be made, on a cluster."""
    checkout = Checkout(tmp_path / "checkout")
    shutil.copytree(reproduced.path, checkout.path, symlinks=True)
    shutil.rmtree(checkout.path / "out" / "embeddings")
    storage = tmp_path / "storage"
    storage.mkdir()
    checkout.change({"data": {"storage": str(storage)}})
    return checkout


def test_a_job_waits_for_machines_and_outlives_two_heads(
    laptop: Checkout, reproduced: Checkout, start: Start, tmp_path: Path
) -> None:
    first = start("first", 0)
    with Forwarder(port_of(first)) as network:
        laptop.change({"cluster": {"mode": "cluster", "address": network.endpoint}})
        command = Command(laptop, "python", "-m", "stages.embed")
        command.wait_for_output("cluster.node_wait_s")
        (job,) = jobs(laptop, "embed")
        with network.away():  # the head is lost, and another one comes to its address
            kill(first)
            second = start("second", 0)
            network.target = port_of(second)
        command.wait_for_output("lost it with its head")
        wait_for(lambda: command.output.count("cluster.node_wait_s") == 2)
        again = Attempt(open_storage(str(tmp_path / "storage")), job).next
        assert jobs(laptop, "embed") == [job, again.id]

        add_node(tmp_path / "second", second, cpus=1)
        records = tmp_path / "storage" / "teacher"
        wait_for(lambda: list(records.glob("*/*.json")))
        command.kill()
        kill(second)
        assert not again.done
    finished = {path: path.stat().st_mtime_ns for path in records.glob("*/*.json")}

    third = start("third", 1)
    laptop.change({"cluster": {"address": third.address}})
    resumed = laptop.run("kdeov", "resume")
    assert again.next.id in resumed.stdout
    assert laptop.run("kdeov", "resume").stdout.split()[:2] in (
        [again.next.id, "runs"],
        [again.next.id, "succeeded;"],
    )
    laptop.stage("embed")
    assert jobs(laptop, "embed") == [job, again.id, again.next.id]
    assert again.next.done
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    for split in ("train", "val", "test"):  # their sha256 are those of the shards
        name = f"out/embeddings/{split}/manifest.json"
        assert (laptop.path / name).read_bytes() == (reproduced.path / name).read_bytes()
