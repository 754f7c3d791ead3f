"""`kdeov resume` says what it lacks, and takes up what can be taken up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.cluster.attempt import Attempt, Submitted, attempts_in
from pipeline.cluster.resume import resume
from pipeline.runtime.job import Job
from pipeline.storage.checked import checked_json
from pipeline.storage.storage import open_storage

JOB = Job("embed", {"embed": {"views": 3}}, ["embed"], [], [], ["out/y"], "/storage")
HOUR_S = 3600.0


class Cluster:
    """Stands for the dashboard of a cluster that has forgotten all jobs."""

    address = "http://head:8265"

    def info(self, _: str) -> None:
        return None


def test_without_a_checkout_the_address_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["resume", "--storage", str(tmp_path / "storage")])
    assert result.exit_code == 1 and "--address" in result.stderr


def test_a_job_that_cannot_be_taken_up_keeps_no_other_from_it(tmp_path: Path) -> None:
    storage, then = open_storage(str(tmp_path)), time.time() - HOUR_S
    JOB.write(Attempt(storage, "kdeov-embed-0-1").folder)  # never submitted
    changes: list[dict[str, Any]] = [{"a field of tomorrow": 1}, {}]
    for number, change in enumerate(changes, 1):
        attempt = Attempt(storage, f"kdeov-embed-{number}-1")
        JOB.write(attempt.folder)
        submitted = Submitted("0" * 64, {}, Cluster.address, then)
        attempt.folder.write("submitted.json", checked_json({**vars(submitted), **change}))
    cluster: Any = Cluster()
    older, newer, lost = resume(attempts_in(str(tmp_path)), cluster, 24 * HOUR_S)
    assert "older version" in older.state and "another version" in newer.state
    assert f"packages/{'0' * 64}.zip" in lost.state  # which this storage lacks
    assert older.failed and newer.failed and lost.failed


def test_the_status_tells_that_a_job_could_not_be_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(open_storage(str(tmp_path)), "kdeov-embed-1-1")
    JOB.write(attempt.folder)
    submitted = Submitted("0" * 64, {}, Cluster.address, time.time() - HOUR_S)
    attempt.folder.write("submitted.json", checked_json(vars(submitted)))
    monkeypatch.setattr("pipeline.cluster.client.Dashboard", lambda address: Cluster())
    command = ["resume", "--storage", str(tmp_path), "--address", Cluster.address]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "packages/" in result.stdout
    attempt.mark_stopped()
    assert CliRunner().invoke(app, command).exit_code == 0
