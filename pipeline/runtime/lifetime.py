"""Processes that end with the one that started them, however that one ends, SIGKILL included."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable

import psutil

logger = logging.getLogger(__name__)

DVC_VARIABLE = "DVC_STAGE"  # DVC sets it for the command of a stage
POLL_S = 0.5
END_TIMEOUT_S = 30.0  # then an interrupted stage is killed; less than `LOCK_EXPIRY_S`
MADE_UP = 1 << 40  # the bit of an address that no card has (RFC 4122)
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
    stage, dvc = _up_to_dvc()
    arguments = ([*stage[1:], *dvc], not dvc or _is_adopted(stage[-1], dvc[0]), interrupt)
    threading.Thread(target=_watch, args=arguments, name="dvc", daemon=True).start()


def _up_to_dvc() -> tuple[list[psutil.Process], list[psutil.Process]]:
    """This process with those above it that DVC started for the stage, such as a shell or
    `uv run`, from below; and what started those, which is DVC. Without it if it has just ended.
    """
    process = psutil.Process()
    found = [process]
    try:
        while (process := process.parent()) is not None:
            if not _is_of_this_stage(process):
                return found, [process]
            found.append(process)
    except psutil.NoSuchProcess:
        pass
    return found, []


def _is_of_this_stage(process: psutil.Process) -> bool:
    """Whether DVC started a process for the stage that this one runs."""
    try:
        return bool(process.environ().get(DVC_VARIABLE) == os.environ[DVC_VARIABLE])
    except psutil.AccessDenied:  # of another user
        return False


def _is_adopted(process: psutil.Process, parent: psutil.Process) -> bool:
    """Whether a process of a stage has lost its parent. DVC starts its commands in its own process
    group, and what adopts them has another one; a command may make a group of its own.
    """
    try:
        group = os.getpgid(process.pid)
        return group != process.pid and os.getpgid(parent.pid) != group
    except ProcessLookupError:
        return True


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


def machine_number() -> int:
    """The address of this machine's network card; 0 where it has none, as in containers without a
    network, for which Python makes up another number in every process.
    """
    number = uuid.getnode()
    return 0 if number & MADE_UP else number


def process_space() -> str:
    """Tells the containers of a machine apart, each of which numbers its own processes; empty
    where the system has nothing of the kind.
    """
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - a Path would be no text
    except OSError:
        return ""


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
