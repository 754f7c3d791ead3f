"""Two drivers on one run: real processes, and one of them is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import DataError, KdeovError, StorageError
from pipeline.runtime import run_lock
from pipeline.runtime.job import JOB
from pipeline.runtime.run_lock import (
    LOCK_EXPIRY_S,
    LOCK_FILE,
    RELEASED,
    Driver,
    RunLock,
    read_driver,
)
from pipeline.storage.storage import Storage, open_storage

HOLD = """
import sys, time
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.storage import open_storage
sys.stdin.readline()
with RunLock(open_storage(sys.argv[1])):
    print("driving", flush=True)
    time.sleep(60)
"""


def write(driver: Driver, run: Storage) -> None:
    run.write(LOCK_FILE, driver.to_bytes())


def driver_of(run: Storage) -> Driver:
    driver = read_driver(run)[1]
    assert driver is not None
    return driver


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "run"))


@pytest.fixture
def spawn(run: Storage, root: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that drives the run once it gets a line."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, run.address], cwd=root, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8",
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def drive(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def other(spawn: Any) -> Callable[[], subprocess.Popen[str]]:
    """Starts another driver of the run; returns once it drives."""

    def start() -> subprocess.Popen[str]:
        process = spawn()
        drive(process)
        assert process.stdout.readline() == "driving\n"
        return process

    return start


def test_a_second_driver_is_refused_and_the_first_is_named(
    run: Storage, other: Any, complains: Any
) -> None:
    first = other()
    with complains(run.address, f"process {first.pid}"), RunLock(run):
        raise AssertionError("two drive")
    assert first.poll() is None


def test_of_processes_that_start_at_once_one_drives(run: Storage, spawn: Any) -> None:
    processes = [spawn() for _ in range(3)]
    for process in processes:
        drive(process)
    lines = [process.stdout.readline() for process in processes]  # empty of one that ended
    assert sorted(lines) == ["", "", "driving\n"]
    for process, line in zip(processes, lines, strict=True):
        if not line:
            assert run.address in process.communicate()[1] and process.returncode == 1


@pytest.mark.parametrize("before", ["no lock", "an expired lock"])
def test_of_many_races_each_has_one_winner(
    storage: Storage, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "LOCK_HEARTBEAT_S", -5.0)  # no wait for clocks that differ
    storage.write("warm", b"up")  # connects before the race
    gone = replace(Driver.of_this_process(), host="elsewhere", time=1.0)

    def claim(run: Storage, barrier: threading.Barrier) -> str | None:
        barrier.wait()
        try:
            return run_lock._claim(run)[0].id
        except KdeovError as error:
            assert run.address in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        for number in range(25):
            run, barrier = storage / str(number), threading.Barrier(4)
            if before == "an expired lock":
                write(gone, run)
            won = [id for id in pool.map(lambda _, r=run, b=barrier: claim(r, b), range(4)) if id]
            assert len(won) == 1 and driver_of(run).id == won[0]


def test_a_driver_that_was_killed_gives_way_at_once(run: Storage, other: Any) -> None:
    killed = other()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with RunLock(run):
        assert driver_of(run).pid != killed.pid


def test_a_driver_that_ended_leaves_the_run_free(run: Storage) -> None:
    for _ in range(2):
        with RunLock(run):
            assert driver_of(run).time != RELEASED
        assert driver_of(run).time == RELEASED


def test_an_earlier_attempt_of_the_same_job_gives_way_at_once(
    run: Storage, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(replace(Driver.of_this_process(), host="elsewhere", job="kdeov-distill-0123-1"), run)
    monkeypatch.setenv(JOB, "s3://bucket/jobs/kdeov-distill-4567-2")
    with complains("job kdeov-distill-0123-1", "elsewhere"), RunLock(run):
        raise AssertionError("two drive")
    monkeypatch.setenv(JOB, "s3://bucket/jobs/kdeov-distill-0123-2")
    with RunLock(run):
        assert json.loads(run.read(LOCK_FILE))["job"] == "kdeov-distill-0123-2"


def test_a_machine_that_vanished_gives_way_when_its_lock_expires(
    run: Storage, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "LOCK_HEARTBEAT_S", -4.9)
    gone = replace(Driver.of_this_process(), host="elsewhere")
    write(replace(gone, time=time.time() - LOCK_EXPIRY_S + 5), run)
    with complains("elsewhere"), RunLock(run):
        raise AssertionError("two drive")
    write(replace(gone, time=time.time() - LOCK_EXPIRY_S - 1), run)
    with RunLock(run, heartbeat_s=10):
        pass


def test_a_driver_whose_clock_is_late_keeps_its_run(
    run: Storage, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = replace(Driver.of_this_process(), host="elsewhere", time=time.time() - 100)
    write(alive, run)
    monkeypatch.setattr(
        run_lock.time, "sleep", lambda _: write(replace(alive, time=alive.time + 10), run)
    )
    with complains("elsewhere"), RunLock(run):
        raise AssertionError("two drive")
    assert driver_of(run).id == alive.id


def test_a_driver_renews_its_lock_and_stops_when_another_took_over(run: Storage) -> None:
    usurper = replace(Driver.of_this_process(), host="elsewhere")
    with pytest.raises(KdeovError, match="elsewhere"), RunLock(run, heartbeat_s=0.05):
        first = driver_of(run)
        end = time.monotonic() + 30
        while driver_of(run).time == first.time and time.monotonic() < end:
            time.sleep(0.02)
        assert driver_of(run).time > first.time and driver_of(run).id == first.id
        write(usurper, run)
        threading.Event().wait(30)
        raise AssertionError("two drive")
    assert driver_of(run) == usurper


def test_a_lock_that_was_deleted_by_hand_is_written_again(run: Storage) -> None:
    with RunLock(run, heartbeat_s=0.05):
        run.delete(LOCK_FILE)
        end = time.monotonic() + 30
        while run.size(LOCK_FILE) is None and time.monotonic() < end:
            time.sleep(0.02)
        assert driver_of(run).time != RELEASED


def test_a_storage_that_cannot_be_read_is_no_free_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), RunLock(open_storage(str(tmp_path / "file"))):
        raise AssertionError("nothing was claimed")


def test_a_damaged_lock_is_no_free_run(run: Storage) -> None:
    run.write(LOCK_FILE, b"{")
    with pytest.raises(DataError, match=LOCK_FILE), RunLock(run):
        raise AssertionError("nothing was claimed")


def test_a_storage_that_is_away_for_a_while_costs_no_lock(run: Storage, log: Any) -> None:
    folder = run.folder
    assert folder is not None
    with RunLock(run, heartbeat_s=0.05):
        first, moved = driver_of(run), folder.with_name("away")
        folder.rename(moved)
        folder.touch()
        end = time.monotonic() + 30
        while str(folder) not in log.text and time.monotonic() < end:
            time.sleep(0.02)
        folder.unlink()
        moved.rename(folder)
        while driver_of(run).time == first.time and time.monotonic() < end:
            time.sleep(0.02)
        assert driver_of(run).id == first.id and driver_of(run).time > first.time
