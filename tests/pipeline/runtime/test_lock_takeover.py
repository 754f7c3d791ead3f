"""A driver whose run was taken over ends, also where it ignores Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.lifetime import process_space
from pipeline.runtime.run_lock import LOCK_FILE, Driver, RunLock
from pipeline.storage.storage import open_storage
from tests.helpers.waiting import next_line, wait_for

IGNORING = """
import signal, sys, time
from pipeline.runtime.run_lock import RunLock
from pipeline.storage.storage import open_storage
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as scripts start what they leave in the background
with RunLock(open_storage(sys.argv[1]), heartbeat_s=0.05):
    print("driving", flush=True)
    time.sleep(600)
"""


def test_a_driver_that_ignores_ctrl_c_is_terminated(tmp_path: Path, root: Path) -> None:
    run = open_storage(str(tmp_path / "run"))
    usurper = replace(Driver.of_this_process(), host="elsewhere").to_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", IGNORING, run.address], cwd=root, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, encoding="utf-8",
    ) as driver:  # fmt: skip
        assert next_line(driver) == "driving\n"
        # again and again: a renewal may come between
        wait_for(lambda: run.write(LOCK_FILE, usurper) or driver.poll() is not None, seconds=60)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGTERM
    assert "on elsewhere has taken over" in errors


@pytest.mark.parametrize("space", ["pid:[1]", ""])  # of another container, of an older version
def test_a_driver_in_another_container_of_this_machine_is_not_taken_for_a_dead_one(
    tmp_path: Path, complains: Any, space: str
) -> None:
    run = open_storage(str(tmp_path / "run"))
    # containers may share a machine's name and address, and their numbers mean other processes
    driver = replace(Driver.of_this_process(), space=space, pid=2**22 + 1)
    run.write(LOCK_FILE, driver.to_bytes())
    with complains("is driven by", str(driver.pid)), RunLock(run):
        raise AssertionError("two drive")
    run.write(LOCK_FILE, replace(driver, space=process_space()).to_bytes())
    with RunLock(run):
        pass


def test_a_store_that_ignores_conditions_is_refused_before_two_drive(
    bucket: str, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_storage(f"{bucket}/run")
    with RunLock(run):
        pass

    def plain(filesystem: Any, path: str, data: bytes, condition: Any) -> None:
        filesystem.pipe_file(path, data)

    monkeypatch.setattr("pipeline.storage.bucket._put_if", plain)
    for _ in range(2):
        with complains(run.address, "ignores the conditions", "cluster.storage"), RunLock(run):
            raise AssertionError("two may drive")
