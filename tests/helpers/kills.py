"""Functions run in processes that are killed: forks of one that has imported what they need."""

from __future__ import annotations

import itertools
import os
import signal
import time
import traceback
from collections.abc import Callable


def start(function: Callable[[], object]) -> int:
    """Runs a function in a fork of this process; returns the number of the fork."""
    if (pid := os.fork()) == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 - nothing of the caller's may run in a fork
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def kill(pid: int) -> bool:
    """Sends SIGKILL to a fork; returns whether it was still running."""
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def kill_after(function: Callable[[], object], seconds: float) -> bool:
    """Kills a fork that runs a function, after so many seconds; returns whether it was running."""
    pid = start(function)
    time.sleep(seconds)
    return kill(pid)


def kill_at_commit(function: Callable[[], object], number: int) -> None:
    """Kills a fork that runs a function before its so-manieth commit to a database."""

    def run() -> None:
        from sqlalchemy import Engine, event

        commits = itertools.count(1)

        @event.listens_for(Engine, "commit")
        def count(_: object) -> None:
            if next(commits) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        function()

    os.waitpid(start(run), 0)


def succeeds(pid: int) -> bool:
    """Waits for a fork to end; returns whether its function returned."""
    return os.waitpid(pid, 0)[1] == 0
