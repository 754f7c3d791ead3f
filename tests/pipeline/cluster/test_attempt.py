"""What the storage keeps of a job is enough to run it again, and tells whether it still runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.jobs import _state_without_cluster
from pipeline.cluster.attempt import Attempt, Submitted, attempts_in
from pipeline.cluster.package import pack, package_name, packaged, unpack
from pipeline.cluster.records import Record
from pipeline.cluster.resume import attempts_of
from pipeline.runtime.job import Job
from pipeline.runtime.run_lock import CLAIM_WAIT_S, LOCK_EXPIRY_S, RELEASED, Driver
from pipeline.storage.checked import checked_json
from pipeline.storage.files import sha256_file
from pipeline.storage.storage import open_storage

JOB = Job("embed", {"embed": {"views": 3}}, ["embed"], [], [], ["out/y"], "/storage")
Write = Callable[..., Attempt]


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """The first attempt at a job, submitted now."""
    found = Attempt(open_storage(str(tmp_path / "storage")), "kdeov-embed-0123456789abcdef-1")
    JOB.write(found.folder)
    submit(found, time.time())
    return found


def submit(attempt: Attempt, when: float) -> None:
    submitted = Submitted("0" * 64, {"DVC_STAGE": "embed"}, "http://head:8265", when)
    attempt.folder.write("submitted.json", checked_json(vars(submitted)))


def drive(attempt: Attempt, **changes: Any) -> None:
    """Writes the lock of a driver: of this process, with changes."""
    driver = replace(Driver.of_this_process(), job=attempt.id, **changes)
    attempt.folder.write("driver.json", driver.to_bytes())


def test_equal_code_makes_an_equal_package_with_all_of_it(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(root / "pipeline" / "cluster", tmp_path / name / "pipeline")
        (tmp_path / name / ".rayignore").write_text("__pycache__\n", encoding="utf-8")
    first, second = (pack(tmp_path / n, tmp_path / f"{n}.zip") for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    storage = open_storage(str(tmp_path / "storage"))
    storage.upload(first, package_name(sha256 := sha256_file(first)))
    (folder := tmp_path / "there").mkdir()
    code = unpack(storage, sha256, folder)
    names = [path.relative_to(tmp_path / "a") for path in packaged(tmp_path / "a")]
    assert names and all(
        (code / n).read_bytes() == (tmp_path / "a" / n).read_bytes() for n in names
    )


@pytest.mark.parametrize("damage", [None, b"PK and no more"])
def test_a_package_that_is_lost_or_damaged_is_named(
    attempt: Attempt, complains: Any, damage: bytes | None
) -> None:
    submitted = attempt.submitted
    assert submitted is not None
    if damage is not None:
        attempt.storage.write(package_name(submitted.package), damage)
    word = "missing" if damage is None else "damaged"
    with complains(package_name(submitted.package), word), attempt.code(submitted):
        pass


def test_a_job_that_a_cluster_may_just_start_is_not_gone(attempt: Attempt) -> None:
    assert not attempt.is_gone
    submit(attempt, time.time() - LOCK_EXPIRY_S - 1)
    assert attempt.is_gone


def test_a_driver_that_lives_is_not_gone_and_a_dead_one_is(attempt: Attempt) -> None:
    submit(attempt, time.time() - 1000)
    drive(attempt)
    assert not attempt.is_gone and not attempt.ended
    drive(attempt, created=1.0)  # its number is another process's now
    assert attempt.is_gone and not attempt.ended


def test_a_driver_of_another_machine_is_gone_once_its_lock_expires(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("pipeline.runtime.run_lock.time.sleep", waits.append)
    drive(attempt, host="head-1")
    assert not attempt.is_gone and waits == []
    drive(attempt, host="head-1", time=time.time() - LOCK_EXPIRY_S - 1)
    assert attempt.is_gone and waits == [CLAIM_WAIT_S]  # a live one would write again


def test_a_driver_that_came_to_its_end_is_not_lost(attempt: Attempt) -> None:
    drive(attempt, time=RELEASED)
    assert attempt.ended and not attempt.done
    attempt.folder.write("outputs.json", b"{}")
    assert attempt.done


def test_the_newest_attempt_at_each_job_is_found_from_its_storage_or_its_records(
    attempt: Attempt,
) -> None:
    JOB.write(attempt.next.folder)
    JOB.write(attempt.next.next.folder)
    other = Attempt(attempt.storage, "kdeov-zero-shot-0123456789abcdef-1")
    JOB.write(other.folder)
    attempt.storage.write("jobs/something-else/file", b"")
    newest = attempt.next.next
    assert {found.id for found in attempts_in(attempt.storage.address)} == {newest.id, other.id}
    record = Record("embed", attempt.id, "http://head:8265", attempt.folder.address, 1.0)
    assert [found.id for found in attempts_of([record])] == [newest.id]
    assert newest.number == 3 and newest.name == attempt.name


def test_an_attempt_that_failed_is_not_called_lost_once_there_is_another(attempt: Attempt) -> None:
    record = Record("embed", attempt.id, "http://head:8265", attempt.folder.address, 1.0)
    JOB.write(attempt.next.folder)
    assert _state_without_cluster(record) == "lost, and submitted again"
    drive(attempt, time=RELEASED)
    assert _state_without_cluster(record) == "failed"
    attempt.folder.write("outputs.json", b"{}")
    assert _state_without_cluster(record) == "succeeded"


def test_a_job_that_a_user_stopped_stays_stopped(attempt: Attempt) -> None:
    assert not attempt.stopped
    attempt.mark_stopped()
    assert attempt.stopped and not attempt.next.stopped
