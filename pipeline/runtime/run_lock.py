"""A heartbeat lock: one driver per run.

The file `driver.json` beside the checkpoints is renewed every 10 s and expires after 45 s. It is
only ever written by compare-and-swap, so a driver that took over is never overwritten. A lock ends
at once where its process is known to be dead, or belongs to an earlier attempt of the same job.
A driver that was suspended for longer than that finds out at its next renewal, within 10 s of
waking, and stops; what it writes until then are the steps that the other driver takes too.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import psutil

from kdeov.errors import DataError, KdeovError, StorageError
from pipeline.runtime.lifetime import (
    END_TIMEOUT_S,
    created_at,
    find_process,
    interrupt_main_thread,
    machine_number,
    process_space,
)
from pipeline.runtime.node import job_id
from pipeline.storage.checked import checked_json, parse_checked_json
from pipeline.storage.storage import Storage

logger = logging.getLogger(__name__)

LOCK_FILE = "driver.json"
LOCK_HEARTBEAT_S = 10.0
LOCK_EXPIRY_S = 45.0
CLAIM_WAIT_S = LOCK_HEARTBEAT_S + 5
FIX = "delete it if no process trains this run"
RELEASED = 0.0  # the time of a lock that its driver has given up


@dataclass(frozen=True)
class Driver:
    """The process that drives a run.

    Attributes:
        id: Of this claim.
        who: Name of the user.
        host: Name of the machine.
        machine: Tells machines of the same name apart.
        pid: Of the process.
        created: When the process was created, in seconds since the machine started: setting the
            clock does not change it.
        job: Its id on a cluster; empty elsewhere.
        time: Of the last heartbeat, in seconds since 1970; `RELEASED` after the end.
        space: In which `pid` counts: containers of one machine may share its name and address, and
            each numbers its own processes. Empty in files of older versions.
    """

    id: str
    who: str
    host: str
    machine: int
    pid: int
    created: float
    job: str
    time: float
    space: str = ""

    @classmethod
    def of_this_process(cls) -> Driver:
        """This process, now, with a new claim."""
        try:
            who = getpass.getuser()
        except (KeyError, OSError):  # a container may know no names
            who = str(os.getuid())
        return cls(
            uuid.uuid4().hex, who, socket.gethostname(), machine_number(), os.getpid(),
            created_at(psutil.Process()), job_id(), time.time(), process_space(),
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """The content of the lock file."""
        return checked_json(asdict(self))

    def gives_way_to(self, other: Driver) -> bool:
        """Whether the lock is over: released, of a dead process, of another attempt of the same
        job, or expired. A time in the future has expired too: the clocks differ.
        """
        return self.is_over_for(other) or abs(other.time - self.time) > LOCK_EXPIRY_S

    def is_over_for(self, other: Driver) -> bool:
        """Whether the lock is over whatever the clocks say."""
        if self.time == RELEASED:
            return True
        if self.job and self.job.rpartition("-")[0] == other.job.rpartition("-")[0]:
            return self.job != other.job
        place, here = ((one.host, one.machine, one.space) for one in (self, other))
        return place == here and find_process(self.pid, self.created) is None

    def __str__(self) -> str:
        job = f"job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} of {self.who} on {self.host}"


def read_driver(run: Storage) -> tuple[bytes, Driver] | tuple[None, None]:
    """The content of a run's lock file, and its driver; None where there is no lock file.

    Raises:
        StorageError: The storage cannot be read.
        DataError: The file is damaged.
    """
    try:
        data = run.read(LOCK_FILE)
    except FileNotFoundError:
        return None, None
    where = run.where(LOCK_FILE)
    try:
        return data, Driver(**parse_checked_json(data, where, FIX))
    except TypeError as error:
        raise DataError(f"{where}: of another version ({error}); {FIX}") from error


def driver_is_gone(run: Storage) -> bool:
    """Whether no process drives a run. Where only the clocks say so, this waits for a heartbeat,
    for `CLAIM_WAIT_S`.
    """
    me = Driver.of_this_process()
    found, holder = read_driver(run)
    if holder is None or holder.is_over_for(me):
        return True
    if not holder.gives_way_to(me):
        return False
    time.sleep(CLAIM_WAIT_S)
    return read_driver(run)[0] == found


class RunLock:
    """Makes this process the only driver of a run, while a `with` block runs.

    Args:
        run: Where the checkpoints of the run lie.
        heartbeat_s: Seconds between renewals.

    Raises:
        KdeovError: Another process drives the run: on entry or, after this one has not renewed its
            lock for `LOCK_EXPIRY_S`, from within the block.
        StorageError: The storage cannot be read or written.
    """

    def __init__(self, run: Storage, heartbeat_s: float = LOCK_HEARTBEAT_S) -> None:
        self._run, self._heartbeat_s = run, heartbeat_s
        self._ended = threading.Event()
        self._usurper: Driver | None = None

    def __enter__(self) -> RunLock:
        self._written: bytes | None
        self._me, self._written = _claim(self._run)
        self._thread = threading.Thread(target=self._renew, name="run-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(LOCK_HEARTBEAT_S)
        if self._usurper is None:
            with contextlib.suppress(KdeovError):  # it expires
                # twice at most: a renewal that was under way may have written in between
                any(self._beat(RELEASED) for _ in range(2))
        elif isinstance(error, KeyboardInterrupt):
            raise KdeovError(
                f"{self._run.address}: {self._usurper} has taken over this run, as this process "
                f"did not renew its lock for more than {LOCK_EXPIRY_S:.0f} s; let it go on, or end "
                "it and start again"
            ) from None

    def _renew(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            try:
                self._beat(time.time())
            except KdeovError as error:  # away for others too; the next beat retries
                logger.warning("%s", error)
            if self._usurper is not None and not self._ended.is_set():
                logger.warning("%s has taken over %s", self._usurper, self._run.address)
                interrupt_main_thread()
                # one that comes just before a system call does not wake it
                while not self._ended.wait(END_TIMEOUT_S):
                    interrupt_main_thread()
                return

    def _beat(self, now: float) -> bool:
        """Writes the lock anew, unless another driver has taken over; returns whether it did."""
        new = replace(self._me, time=now).to_bytes()
        if self._run.swap(LOCK_FILE, self._written, new):
            self._written = new
            return True
        found, driver = read_driver(self._run)
        if driver is not None and driver.id != self._me.id:
            self._usurper = driver
        else:  # deleted by hand, or an answer was lost; the next beat writes it
            self._written = found
        return False


def _claim(run: Storage) -> tuple[Driver, bytes]:
    """Writes the lock file where the run is free.

    Returns:
        This driver, and the content of the file.
    """
    me = Driver.of_this_process()
    found, holder = read_driver(run)
    if holder is not None:
        if not holder.gives_way_to(me):
            raise _refusal(run, holder)
        if not holder.is_over_for(me):
            # only the clocks say so: a driver that lives writes again in the meantime
            time.sleep(CLAIM_WAIT_S)
            me = replace(me, time=time.time())
        if holder.time != RELEASED:
            logger.info("taking over from %s, whose lock is over", holder)
    new = me.to_bytes()
    if not run.swap(LOCK_FILE, found, new):
        raise _refusal(run, read_driver(run)[1])
    # some stores answer a conditional write as a plain one, and another driver would overwrite this
    if run.swap(LOCK_FILE, None, replace(me, time=RELEASED).to_bytes()):
        raise StorageError(
            f"{run.address}: the store ignores the conditions of writes (If-None-Match), so two "
            "processes could drive one run; set cluster.storage to a store that keeps them, or to "
            "a shared folder"
        )
    return me, new


def _refusal(run: Storage, holder: Driver | None) -> KdeovError:
    if holder is None or holder.time == RELEASED:
        return KdeovError(f"{run.address}: another process has just driven this run; start again")
    seconds = max(0.0, time.time() - holder.time)
    return KdeovError(
        f"{run.address} is driven by {holder}, which renewed its lock {seconds:.0f} s ago; wait "
        f"for it, or end it (its lock expires after {LOCK_EXPIRY_S:.0f} s)"
    )
