"""Waiting for events, with a bound."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T],
    log: Path | None = None,
    seconds: float = 240,
    poll_s: float = 0.05,
) -> T:
    """Polls a condition until it is true, and returns its value; fails after so many seconds, with
    the log if given.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, (
            log.read_text(encoding="utf-8") if log else f"it did not happen within {seconds:.0f} s"
        )
        time.sleep(poll_s)
    return found


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
