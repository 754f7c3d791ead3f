"""Small files by which processes and machines find each other: damage to one is reported with the
file, and never read as another value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import KdeovError
from pipeline.cluster.attempt import Attempt, Submitted
from pipeline.cluster.local import LocalCluster
from pipeline.cluster.records import Record
from pipeline.config.paths import Layout
from pipeline.runtime.job import File, Job
from pipeline.runtime.node import outputs_of
from pipeline.runtime.ray_train import read_worker, worker_place
from pipeline.runtime.run_lock import Driver, read_driver
from pipeline.storage.checked import checked_json
from pipeline.storage.storage import open_storage
from tests.helpers.damage import flips

FILE = File("out/x", "0" * 64)
JOB = Job("embed", {"embed": {"views": 3}}, ["embed"], [FILE], [FILE], ["out/y"], "/storage")
CLUSTER = LocalCluster("http://127.0.0.1:8265", "127.0.0.1:6379", "/tmp/ray", [(12, 34.5)])


def attempt_in(folder: Path) -> Attempt:
    return Attempt(open_storage(str(folder)), "kdeov-embed-1")


def write_driver(folder: Path) -> Path:
    open_storage(str(folder)).write("driver.json", Driver.of_this_process().to_bytes())
    return folder / "driver.json"


def write_job(folder: Path) -> Path:
    JOB.write(open_storage(str(folder)))
    return folder / "job.json"


def write_submitted(folder: Path) -> Path:
    submitted = Submitted("0" * 64, {"DVC_STAGE": "embed"}, "http://head:8265", 5.5)
    attempt_in(folder).folder.write("submitted.json", checked_json(vars(submitted)))
    return folder / "jobs" / "kdeov-embed-1" / "submitted.json"


def write_outputs(folder: Path) -> Path:
    open_storage(str(folder)).write("outputs.json", checked_json({"files": [asdict(FILE)]}))
    return folder / "outputs.json"


def write_worker(folder: Path) -> Path:
    worker = checked_json({"rank": 1, "machine": "node-a", "pid": 4711})
    open_storage(str(folder)).write("workers/rank-1.json", worker)
    return folder / "workers" / "rank-1.json"


def write_record(folder: Path) -> Path:
    Record("embed", "kdeov-embed-1", "http://head:8265", "s3://b/jobs/1", 5.5).write(Layout(folder))
    return folder / "work" / "jobs" / "kdeov-embed-1.json"


def write_cluster(folder: Path) -> Path:
    CLUSTER.write(folder)
    return folder / "cluster.json"


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "driver of a run": (write_driver, lambda f: read_driver(open_storage(str(f)))[1]),
    "job": (write_job, lambda f: Job.read(open_storage(str(f)))),
    "submission of a job": (write_submitted, lambda f: attempt_in(f).submitted),
    "outputs of a job": (write_outputs, lambda f: outputs_of(open_storage(str(f)))),
    "worker": (write_worker, lambda f: read_worker(open_storage(str(f)), 1)),
    "submitted job": (write_record, lambda f: Record.all(Layout(f))),
    "local cluster": (write_cluster, LocalCluster.read),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_record_is_named_or_reads_the_same(tmp_path: Path, kind: str) -> None:
    write, read = KINDS[kind]
    path = write(tmp_path)
    whole, expected = path.read_bytes(), read(tmp_path)
    for damaged in [b"", b"[]", whole[: len(whole) // 2], *flips(whole, 60, seed=0)]:
        path.write_bytes(damaged)
        try:
            assert read(tmp_path) == expected
        except KdeovError as error:
            text = str(error)
            assert str(path) in text and "\n" not in text
            assert "delete it" in text or "submit the job again" in text, text
    path.write_bytes(whole)
    assert read(tmp_path) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_a_newer_version_is_read_or_named(tmp_path: Path, kind: str) -> None:
    write, read = KINDS[kind]
    path = write(tmp_path)
    values = json.loads(path.read_bytes())
    del values["digest"]
    path.write_bytes(checked_json({**values, "a field of tomorrow": 1}))
    try:
        read(tmp_path)
    except KdeovError as error:
        assert str(path) in str(error)


def test_a_message_does_without_the_machine_of_a_damaged_record(tmp_path: Path) -> None:
    path, run = write_worker(tmp_path), open_storage(str(tmp_path))
    assert worker_place(run, 1) == "node-a"
    path.write_bytes(b"{")
    assert str(path) in worker_place(run, 1)
    path.unlink()
    assert str(path) not in worker_place(run, 1)


def test_the_record_of_one_rank_is_not_that_of_another(tmp_path: Path, complains: Any) -> None:
    write_worker(tmp_path).rename(tmp_path / "workers" / "rank-0.json")
    with complains(tmp_path / "workers" / "rank-0.json"):
        read_worker(open_storage(str(tmp_path)), 0)
