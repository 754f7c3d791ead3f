"""Processes that are started end with the one that started them, which is killed by SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.runtime.lifetime import created_at, find_process
from tests.helpers.waiting import is_gone, wait_for

PROGRAM = """
import subprocess, sys, time
from pipeline.runtime.lifetime import signal_at_parents_end
subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"],
               preexec_fn=signal_at_parents_end())
"""
STAGE = """
import os, subprocess, sys, time
from pathlib import Path
from pipeline.runtime.lifetime import end_with_dvc
def is_there(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
started = Path(sys.argv[1], "started")
if sys.argv[3] == "early":  # DVC is gone before the stage looks
    started.touch()
    while is_there(int(sys.argv[4])): time.sleep(0.01)
try:
    end_with_dvc(interrupt=sys.argv[2] == "interrupt")
    started.touch()
    time.sleep(600)
except KeyboardInterrupt:
    Path(sys.argv[1], "interrupted").touch()
"""
RUNNER = """
import os, subprocess, sys
command = [sys.executable, "-c", sys.argv[1], *sys.argv[3:], str(os.getpid())]
before = {
    "none": [],
    "shell": ["sh", "-c", '"$@"; true', "sh"],
    # as `uv run`, `srun` and `timeout` in the stage's command
    "wrapper": [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"],
    "group": ["timeout", "600"],
}[sys.argv[2]]
subprocess.run([*before, *command], env={**os.environ, "DVC_STAGE": "hold"})
"""


@pytest.fixture
def start(root: Path) -> Iterator[Any]:
    """Starts a Python script in a process group of its own, as a terminal does."""
    started: list[psutil.Process] = []

    def run(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=root, text=True, stdout=subprocess.PIPE, start_new_session=True,
            encoding="utf-8")  # fmt: skip
        started.append(psutil.Process(process.pid))
        return process

    yield run
    for parent in started:
        if not is_gone(parent):
            for process in [*parent.children(recursive=True), parent]:
                process.kill()


def below(process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """The processes below one, once there are so many."""
    parent = psutil.Process(process.pid)
    wait_for(lambda: len(parent.children(recursive=True)) >= count, seconds=60)
    return parent.children(recursive=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    wait_for(lambda: all(map(is_gone, processes)), seconds=60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal at a parent's end")
def test_a_program_of_a_command_ends_when_the_command_is_killed(start: Any) -> None:
    command = start(PROGRAM)
    processes = below(command, 1)
    kill(command)
    wait_until_gone(processes)


@pytest.mark.parametrize("shell", ["shell", "none", "wrapper"])
@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("how", ["interrupt", "at once"])
def test_a_stage_ends_when_the_dvc_that_runs_it_is_killed(
    start: Any, tmp_path: Path, shell: str, when: str, how: str
) -> None:
    dvc = start(RUNNER, STAGE, shell, tmp_path, how, when)
    processes = below(dvc, 1 if shell == "none" else 2)
    wait_for((tmp_path / "started").exists, seconds=60)
    kill(dvc)
    wait_until_gone(processes)
    assert (tmp_path / "interrupted").exists() == (how == "interrupt")


def test_a_stage_in_a_process_group_of_its_own_ends_with_dvc_and_not_before(
    start: Any, tmp_path: Path
) -> None:
    dvc = start(RUNNER, STAGE, "group", tmp_path, "interrupt", "late")
    processes = below(dvc, 2)
    wait_for((tmp_path / "started").exists, seconds=60)
    with pytest.raises(psutil.TimeoutExpired):
        processes[-1].wait(2)
    kill(dvc)
    wait_until_gone(processes)


@pytest.mark.slow
def test_a_stage_that_no_dvc_runs_outlives_its_parent(start: Any, tmp_path: Path) -> None:
    without = RUNNER.replace('"DVC_STAGE"', '"ANOTHER"')
    parent = start(without, STAGE, "none", tmp_path, "interrupt", "late")
    (stage,) = below(parent, 1)
    wait_for((tmp_path / "started").exists, seconds=60)
    kill(parent)
    with pytest.raises(psutil.TimeoutExpired):
        stage.wait(2)
    stage.kill()


def test_a_process_is_found_by_its_number_and_its_time_after_the_machines_start() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        created = created_at(psutil.Process(process.pid))
        assert find_process(process.pid, created) is not None
        assert find_process(process.pid, created - 1) is None  # the number was given again
    finally:
        process.kill()
    wait_for(lambda: find_process(process.pid, created) is None)  # also before it is waited for
    process.wait()
    assert find_process(process.pid, created) is None
