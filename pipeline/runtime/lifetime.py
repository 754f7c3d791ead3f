"""Processes that end with the one that started them, however that one ends, SIGKILL included."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import psutil

logger = logging.getLogger(__name__)

DVC_VARIABLE = "DVC_STAGE"  # DVC sets it for the command of a stage
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"}
POLL_S = 0.5
END_TIMEOUT_S = 30.0  # then an interrupted stage is killed; less than `LOCK_EXPIRY_S`
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def signal_at_parents_end() -> Callable[[], None] | None:
    """The `preexec_fn` of a program that receives SIGTERM when this thread's process ends.

    Linux ties the signal to the thread that starts the program, so only a thread that outlives the
    program may use it. Other systems have nothing of the kind: None.
    """
    if sys.platform != "linux":
        return None
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended in the meantime
            os._exit(1)

    return prepare


def end_with_dvc(interrupt: bool) -> None:
    """Ends this process, a stage, when the DVC that runs it is gone: a killed DVC passes no signal
    on, and the stage would go on and hold its run.

    Args:
        interrupt: Whether it ends as after Ctrl-C; else at once, so that a job that it follows goes
            on.
    """
    if DVC_VARIABLE not in os.environ:
        return
    ancestors = _up_to_dvc()
    # DVC starts its commands in its own process group; what adopted them has another one
    gone = not all(map(_is_in_this_group, ancestors))
    arguments = (ancestors, gone, interrupt)
    threading.Thread(target=_watch, args=arguments, name="dvc", daemon=True).start()


def _up_to_dvc() -> list[psutil.Process]:
    """The parent of this process; where it is a shell, also DVC, which runs the shell."""
    found: list[psutil.Process] = []
    try:
        process = psutil.Process().parent()
        while process is not None:
            found.append(process)
            if process.name() not in SHELLS:
                break
            process = process.parent()
    except psutil.NoSuchProcess:  # it has just ended, which `_watch` sees
        pass
    return found


def _is_in_this_group(process: psutil.Process) -> bool:
    """Whether a process is in the process group of this one."""
    try:
        return os.getpgid(process.pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def _watch(ancestors: list[psutil.Process], gone: bool, interrupt: bool) -> None:
    while not gone:
        time.sleep(POLL_S)
        gone = not all(map(is_alive, ancestors))
    logger.warning("DVC has ended; this stage ends too")
    if interrupt:
        interrupt_main_thread()
        time.sleep(END_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_main_thread() -> None:
    """Ends the main thread as Ctrl-C does; a signal wakes it even where it waits. A process that
    ignores Ctrl-C, as the background jobs of scripts do, is terminated.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    number = signal.SIGTERM if ignored else signal.SIGINT
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def created_at(process: psutil.Process) -> float:
    """Seconds from this machine's start to a process's: setting the clock does not change it."""
    return round(process.create_time() - psutil.boot_time(), 1)


def find_process(pid: int, created: float) -> psutil.Process | None:
    """The process of a number, if it still runs and began at this time (see `created_at`)."""
    try:
        process = psutil.Process(pid)
        return process if created_at(process) == created and is_alive(process) else None
    except psutil.NoSuchProcess:
        return None


def runs(pid: int) -> bool:
    """Whether a process of this number runs; see `is_alive`."""
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
