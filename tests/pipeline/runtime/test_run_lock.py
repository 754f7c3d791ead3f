"""Two drivers on one run: real processes, and one of them is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import KdeovError
from pipeline.runtime import run_lock as lease
from pipeline.runtime.job import JOB
from pipeline.runtime.run_lock import NAME, STALE_S, Driver, driving
from pipeline.storage.storage import Storage

HOLD = """
import sys, time
from pipeline.runtime.run_lock import driving
from pipeline.storage.storage import Storage
with driving(Storage(sys.argv[1])):
    print("driving", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def other(run: Storage, root: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts another driver of the run; returns once it drives, or has ended."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, run.address],
            cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_driver_is_refused_and_told_who_the_first_is(
    run: Storage, other: Any, complains: Any
) -> None:
    first = other()
    with complains(run.address, f"process {first.pid}", "heard of"), driving(run):
        raise AssertionError("two drive")
    assert first.poll() is None


def test_of_two_that_start_at_once_one_drives(run: Storage, root: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, run.address],
            cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        while all(process.poll() is None for process in both):
            time.sleep(0.05)
        loser, winner = sorted(both, key=lambda process: process.poll() is None)
        assert "is driven by" in loser.communicate()[1]
        assert winner.stdout is not None and winner.stdout.readline() == "driving\n"
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_a_driver_that_was_killed_gives_way_at_once(run: Storage, other: Any) -> None:
    killed = other()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with driving(run):
        driver = Driver.read(run)
        assert driver is not None and driver.pid != killed.pid
    assert run.size(NAME) is None


def test_an_earlier_attempt_of_the_same_job_gives_way_at_once(
    run: Storage, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(Driver.me(), host="elsewhere", job="kdeov-distill-0123-1")
    elsewhere.write(run)
    monkeypatch.setenv(JOB, "s3://bucket/jobs/kdeov-distill-4567-2")
    with complains("job kdeov-distill-0123-1", "elsewhere"), driving(run):
        raise AssertionError("two drive")
    monkeypatch.setenv(JOB, "s3://bucket/jobs/kdeov-distill-0123-2")
    with driving(run):
        assert json.loads(run.read(NAME))["job"] == "kdeov-distill-0123-2"


def test_a_machine_that_vanished_gives_way_after_a_while(run: Storage, complains: Any) -> None:
    gone = replace(Driver.me(), host="elsewhere")
    replace(gone, time=time.time() - STALE_S + 5).write(run)
    with complains("elsewhere"), driving(run):
        raise AssertionError("two drive")
    replace(gone, time=time.time() - STALE_S - 1).write(run)
    with driving(run):
        pass


def test_a_driver_goes_on_saying_so_and_stops_when_another_took_over(
    run: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWED_S", 0.1)
    usurper = replace(Driver.me(), host="elsewhere")
    with pytest.raises(KdeovError, match=r"on elsewhere has taken over this run"), driving(run):
        first = Driver.read(run)
        assert first is not None
        time.sleep(0.3)
        later = Driver.read(run)
        assert later is not None and later.time > first.time and later.id == first.id
        usurper.write(run)
        while True:
            time.sleep(0.05)
    assert Driver.read(run) == usurper  # it is not ours to delete
