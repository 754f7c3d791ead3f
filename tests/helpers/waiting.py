"""Waiting for events, with a bound."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_for(
    condition: Callable[[], object],
    log: Path | None = None,
    seconds: float = 240,
    poll_s: float = 0.05,
) -> None:
    """Polls a condition until it is true; fails after so many seconds, with the log if given."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (
            log.read_text(encoding="utf-8") if log else f"it did not happen within {seconds:.0f} s"
        )
        time.sleep(poll_s)


def next_line(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """The next line of a process's standard output; empty if it has ended. Fails after so many
    seconds without one.
    """
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, f"no line within {seconds:.0f} s"
    return process.stdout.readline()


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that nobody has waited for has, too."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
