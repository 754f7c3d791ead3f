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
from tests.helpers.waiting import next_line, wait_for

HOLD = """
import sys, time
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.storage import open_storage
sys.stdin.readline()
with RunLock(open_storage(sys.argv[1]), heartbeat_s=float(sys.argv[2])):
    print("driving", flush=True)
    time.sleep(600)
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
def spawn(run: Storage, root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that drives the run once it gets a line."""
    started = []

    def start(heartbeat_s: float = 10) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, run.address, str(heartbeat_s)], cwd=root, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8",
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def drive(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def other(spawn: Any) -> Callable[..., subprocess.Popen[str]]:
    """Starts another driver of the run; returns once it drives."""

    def start(heartbeat_s: float = 10) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = spawn(heartbeat_s)
        drive(process)
        assert next_line(process) == "driving\n"
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
    lines = [next_line(process) for process in processes]  # empty of one that ended
    assert sorted(lines) == ["", "", "driving\n"]
    for process, line in zip(processes, lines, strict=True):
        if not line:
            assert run.address in process.communicate(timeout=60)[1] and process.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("before", ["no lock", "an expired lock"])
def test_of_many_races_each_has_one_winner(
    storage: Storage, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "CLAIM_WAIT_S", 0.0)
    storage.write("warm", b"up")  # connects before the race
    gone = replace(Driver.of_this_process(), host="elsewhere", time=1.0)

    def claim(run: Storage, barrier: threading.Barrier) -> str | None:
        barrier.wait(60)
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
    killed.wait(60)
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
    monkeypatch.setattr(run_lock, "CLAIM_WAIT_S", 0.1)
    gone = replace(Driver.of_this_process(), host="elsewhere")
    write(replace(gone, time=time.time() - LOCK_EXPIRY_S + 5), run)
    with complains("elsewhere"), RunLock(run):
        raise AssertionError("two drive")
    write(replace(gone, time=time.time() - LOCK_EXPIRY_S - 1), run)
    with RunLock(run, heartbeat_s=10):
        pass


@pytest.mark.parametrize("ahead", [-100, 100])
@pytest.mark.parametrize("host", ["elsewhere", "here"])  # where the clock may have been set
def test_a_driver_whose_clock_differs_keeps_its_run_while_it_renews(
    run: Storage, complains: Any, monkeypatch: pytest.MonkeyPatch, ahead: float, host: str
) -> None:
    alive = Driver.of_this_process()
    alive = replace(alive, host=host if host != "here" else alive.host, time=time.time() + ahead)
    write(alive, run)
    monkeypatch.setattr(
        run_lock.time, "sleep", lambda _: write(replace(alive, time=alive.time + 10), run)
    )
    with complains(alive.host), RunLock(run):
        raise AssertionError("two drive")
    assert driver_of(run).id == alive.id


def test_a_machine_that_vanished_with_its_clock_ahead_gives_way(
    run: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "CLAIM_WAIT_S", 0.1)
    write(replace(Driver.of_this_process(), host="elsewhere", time=time.time() + 3600), run)
    with RunLock(run):
        pass


@pytest.mark.slow
def test_a_driver_that_was_suspended_and_wakes_stops_and_leaves_the_new_one_alone(
    run: Storage, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "CLAIM_WAIT_S", 0.5)
    monkeypatch.setattr(run_lock, "LOCK_EXPIRY_S", 1.0)
    suspended = other(heartbeat_s=0.2)
    suspended.send_signal(signal.SIGSTOP)
    last = driver_of(run)
    assert last.pid == suspended.pid
    wait_for(lambda: time.time() - last.time > 1.0)
    with RunLock(run, heartbeat_s=0.2):
        mine = driver_of(run)
        assert mine.id != last.id
        suspended.send_signal(signal.SIGCONT)
        error = suspended.communicate(timeout=240)[1]
        assert suspended.returncode == 1 and f"process {mine.pid}" in error
        assert driver_of(run).id == mine.id
    assert driver_of(run) == replace(mine, time=RELEASED)


@pytest.mark.slow
def test_of_a_renewal_and_a_takeover_at_once_one_succeeds(storage: Storage) -> None:
    gone = replace(Driver.of_this_process(), host="elsewhere", time=1.0)

    def swap(run: Storage, barrier: threading.Barrier, new: Driver) -> bool:
        barrier.wait(60)
        return run.swap(LOCK_FILE, gone.to_bytes(), new.to_bytes())

    with ThreadPoolExecutor(2) as pool:
        for number in range(25):
            run, barrier = storage / str(number), threading.Barrier(2)
            write(gone, run)
            drivers = [replace(gone, time=2.0), Driver.of_this_process()]
            won = list(pool.map(lambda d, r=run, b=barrier: swap(r, b, d), drivers))
            assert sorted(won) == [False, True]
            assert driver_of(run) == drivers[won.index(True)]


def test_a_renewal_that_was_under_way_does_not_keep_a_run_that_has_ended(run: Storage) -> None:
    with RunLock(run):
        write(replace(driver_of(run), time=time.time() + 1), run)
    assert driver_of(run).time == RELEASED


def test_a_driver_renews_its_lock_and_stops_when_another_took_over(run: Storage) -> None:
    usurper = replace(Driver.of_this_process(), host="elsewhere")
    with pytest.raises(KdeovError, match="elsewhere"), RunLock(run, heartbeat_s=0.05):
        first = driver_of(run)
        wait_for(lambda: driver_of(run).time > first.time, seconds=30)
        assert driver_of(run).id == first.id
        # again and again, as it does not compare before it writes: a renewal may come between
        wait_for(lambda: write(usurper, run), seconds=30)
    assert driver_of(run) == usurper


def test_a_lock_that_was_deleted_by_hand_is_written_again(run: Storage) -> None:
    with RunLock(run, heartbeat_s=0.05):
        run.delete(LOCK_FILE)
        wait_for(lambda: run.size(LOCK_FILE) is not None, seconds=30)
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
        wait_for(lambda: str(folder) in log.text, seconds=30)
        folder.unlink()
        moved.rename(folder)
        wait_for(lambda: driver_of(run).time > first.time, seconds=30)
        assert driver_of(run).id == first.id
