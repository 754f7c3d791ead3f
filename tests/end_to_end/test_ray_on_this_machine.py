"""`cluster.mode: local`: Ray listens on 127.0.0.1 alone, asks no proxy, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.waiting import is_gone, wait_for

pytestmark = pytest.mark.slow

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts two workers on Ray, in an environment with a proxy that leads nowhere; returns when
    they train.
    """
    started = []

    def run() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.ray_loop", str(tmp_path)],
            cwd=root, text=True, stdout=subprocess.PIPE,
            env={**os.environ, "http_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(root)},
            encoding="utf-8")  # fmt: skip
        started.append(process)
        wait_for(lambda: (tmp_path / "rank-1").exists() or process.poll() is not None)
        assert process.poll() is None
        return process

    yield run
    for process in started:
        for one in family(process) if process.poll() is None else ():
            one.kill()
        process.communicate(timeout=60)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process and all below it."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> dict[int, str]:
    """Address by port, of all sockets that processes listen on."""
    sockets = (c for p in processes if not is_gone(p) for c in p.net_connections("tcp"))
    return {s.laddr.port: s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("niceness", [0, 3])
def test_workers_have_the_priority_of_the_stage(root: Path, niceness: int) -> None:
    script = (
        "import os; from pipeline.runtime.ray_session import ray_session\n"
        f"os.nice({niceness})\n"
        "with ray_session(1):\n"
        "    import ray; print(ray.get(ray.remote(lambda: os.nice(0)).remote()))\n"
    )
    before = os.nice(0)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(root)}, encoding="utf-8", check=True)  # fmt: skip
    assert result.stdout.split()[-1] == str(before + niceness)


def test_all_ports_are_of_127_0_0_1_and_ctrl_c_is_this_process_s_own_afterwards(
    start: Start, tmp_path: Path
) -> None:
    process = start()
    found = listening(family(process))
    assert len(found) > 5
    assert {ip.removeprefix("::ffff:") for ip in found.values()} == {"127.0.0.1"}
    (tmp_path / "go").touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "own handler True" in output


def test_no_process_is_left_of_a_driver_that_was_killed(start: Start) -> None:
    process = start()
    others = family(process)[1:]
    assert len(others) > 5
    # they try for a minute to report that their node is gone, and end by themselves
    agents = [p for p in others if "agent" in " ".join(p.cmdline()).lower()]
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    wait_for(lambda: all(is_gone(p) for p in others if p not in agents))
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()
