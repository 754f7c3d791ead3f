"""Stages as jobs of a real Ray cluster of two nodes, from a laptop that may lose sight of it."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.artifacts.manifest import Manifest
from pipeline.cluster.client import Dashboard
from pipeline.cluster.local import LocalCluster
from tests.helpers.checkouts import Checkout
from tests.helpers.cluster_jobs import Command, driver_of, jobs, read
from tests.helpers.s3_server import Forwarder
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def laptop(
    cluster: LocalCluster,
    new_checkout: Callable[[], Checkout],
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkout:
    """A checkout whose stages go to the cluster."""
    checkout = new_checkout()
    checkout.change(
        {
            "data": {"storage": str(tmp_path_factory.mktemp("storage"))},
            "cluster": {"mode": "cluster", "address": cluster.address, "checkpoint_every": 2},
        }
    )
    checkout.run("git", "commit", "-qam", "to the cluster")
    checkout.run("dvc", "repro", "teacher")
    return checkout


@pytest.fixture
def network(laptop: Checkout, cluster: LocalCluster) -> Iterator[Forwarder]:
    """A connection to the cluster that can be cut; afterwards the laptop has the cluster's own."""
    with Forwarder(int(cluster.address.rpartition(":")[2])) as forwarder:
        yield forwarder
    laptop.change({"cluster": {"address": cluster.address}})


def test_a_laptop_that_dies_a_network_that_fails_and_a_driver_that_is_killed_change_no_result(
    laptop: Checkout, reproduced: Checkout, network: Forwarder
) -> None:
    first = Command(laptop, "dvc", "repro", "zero_shot")
    wait_for(lambda: jobs(laptop, "distill") or first.process.poll() is not None)
    first.kill()
    (job,) = jobs(laptop, "distill")
    laptop.change({"cluster": {"address": network.endpoint}})
    second = Command(laptop, "dvc", "repro", "zero_shot")
    second.wait_for_output(job)
    with network.away():
        second.wait_for_output("connection")
        driver = driver_of(job)
        storage = Path(read(laptop, f"work/jobs/{job}.json")["folder"]).parents[1]
        wait_for(lambda: list(storage.glob("runs/*/checkpoints/step-*.pt")))
        driver.send_signal(signal.SIGKILL)
    assert second.process.wait(300) == 0, second.output
    assert "signal 9" in second.output
    assert re.search(r"after epoch \d", second.output)
    assert "MLflow" in second.output
    assert second.output.count(f"Running entrypoint for job {job}:") <= 1
    assert jobs(laptop, "embed") == [jobs(laptop, "embed")[0]]
    assert jobs(laptop, "distill") == [job, f"{job.removesuffix('-1')}-2"]

    for split in ("train", "val", "test"):  # their sha256 are those of the shards
        name = f"out/embeddings/{split}/manifest.json"
        assert (laptop.path / name).read_bytes() == (reproduced.path / name).read_bytes()
    ours, theirs = (read(c, "metrics/distill.json") for c in (laptop, reproduced))
    assert ours["fingerprint"] == theirs["fingerprint"]
    assert ours["val_cosine"] == pytest.approx(theirs["val_cosine"], abs=1e-4)
    rows = list(csv.DictReader((laptop.path / "metrics" / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    ours, theirs = (read(c, "metrics/zero_shot.json")["scenes"] for c in (laptop, reproduced))
    assert ours["protocol_id"] == theirs["protocol_id"]
    assert ours["teacher"]["top1"] == pytest.approx(theirs["teacher"]["top1"], abs=1e-6)
    evaluation = laptop.run("kdeov", "logs", "zero_shot").stdout
    assert "data.storage: " in evaluation and "training: " not in evaluation  # the doctor's checks

    with network.away():
        again = laptop.run("dvc", "repro", "zero_shot")
    assert "Running stage" not in again.stdout


def test_jobs_can_be_listed_and_read(laptop: Checkout) -> None:
    lines = laptop.run("kdeov", "status").stdout.splitlines()
    states = {line.split()[1]: line.split()[2] for line in lines[1:]}
    (embed,), (distill, _) = jobs(laptop, "embed"), jobs(laptop, "distill")
    assert states[embed] == "succeeded" and states[distill] == "failed"
    assert "Ray" in laptop.run("kdeov", "logs", "embed").stdout


def test_ctrl_c_stops_the_job_and_a_stop_by_others_is_an_error(
    laptop: Checkout, cluster: LocalCluster
) -> None:
    before = set(jobs(laptop, "embed"))
    laptop.change({"embed": {"seed": 1}})
    command = Command(laptop, "python", "-m", "stages.embed")
    command.wait_for_output("Running entrypoint")
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(60) == 130, command.output
    assert "\nembed: " in command.output
    (stopped,) = set(jobs(laptop, "embed")) - before
    dashboard = Dashboard(cluster.address)
    assert dashboard.info(stopped).status == "STOPPED"  # type: ignore[union-attr]

    command = Command(laptop, "python", "-m", "stages.embed")
    command.wait_for_output("Running entrypoint")
    job = f"{stopped.removesuffix('-1')}-2"
    dashboard.stop(job)
    assert command.process.wait(60) == 1
    # the job's own last line may be there too
    line = [line for line in command.output.splitlines() if line.startswith("embed: ")][-1]
    assert job in line and "`dvc repro`" in line
    assert "Traceback" not in command.output


def test_a_token_of_another_cluster_is_refused(
    laptop: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    result = laptop.stage("embed", check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "embed: " in result.stderr and "token" in result.stderr
    assert os.environ["RAY_AUTH_TOKEN"] not in result.stderr


def test_an_error_of_a_worker_is_the_one_line_of_the_stage(
    laptop: Checkout,
) -> None:
    storage = yaml.safe_load((laptop.path / "params.yaml").read_text(encoding="utf-8"))["data"][
        "storage"
    ]
    shard = Manifest.read(laptop.path / "out" / "images" / "test", storage).shards[0]
    tar = Path(storage) / "shards" / f"{shard.sha256}.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1] + b"x")
    laptop.change({"embed": {"seed": 2}})
    result = laptop.run("kdeov", "submit", "embed", check=False)
    tar.write_bytes(whole)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("embed: ")]
    assert shard.sha256 in line
