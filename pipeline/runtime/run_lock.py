"""One driver a run: who trains says so in `driver.json` beside the checkpoints, and goes on saying
so; a second one is refused.

A storage has no locks, and a machine may vanish without a word. So a word is good for a while; it
ends at once where its process is known to be dead, or where it is of an earlier attempt of this
very job.
"""

from __future__ import annotations

import _thread
import contextlib
import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import psutil

from kdeov.errors import KdeovError
from pipeline.runtime.node import job_id
from pipeline.storage.storage import Storage

logger = logging.getLogger(__name__)

NAME = "driver.json"
RENEWED_S = 10.0
STALE_S = 45.0


@dataclass(frozen=True)
class Driver:
    """Who drives a run.

    Attributes:
        id: Of this claim.
        who: Name of the person.
        host: Name of the machine.
        machine: Tells machines of the same name apart.
        pid: Of the process.
        created: When the process was created.
        job: Its id on a cluster; empty elsewhere.
        time: When this was last said, in seconds since 1970.
    """

    id: str
    who: str
    host: str
    machine: int
    pid: int
    created: float
    job: str
    time: float

    @classmethod
    def me(cls) -> Driver:
        """This process, now."""
        try:
            who = getpass.getuser()
        except (KeyError, OSError):  # a container may know no names
            who = str(os.getuid())
        return cls(
            uuid.uuid4().hex, who, socket.gethostname(), uuid.getnode(), os.getpid(),
            psutil.Process().create_time(), job_id(), time.time(),
        )  # fmt: skip

    @classmethod
    def read(cls, run: Storage) -> Driver | None:
        """Whoever drives a run; None where nobody says so in a way that can be read."""
        try:
            return cls(**json.loads(run.read(NAME)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, run: Storage) -> None:
        """Says that this one drives a run."""
        run.write(NAME, json.dumps(asdict(self), indent=2, sort_keys=True).encode())

    def gives_way_to(self, other: Driver) -> bool:
        """Whether it is over: not heard of for long, dead, or another attempt of the same job."""
        if other.time - self.time > STALE_S:
            return True
        if self.job and self.job.rpartition("-")[0] == other.job.rpartition("-")[0]:
            return self.job != other.job
        return not self.elsewhere(other) and not self._runs_here()

    def elsewhere(self, other: Driver) -> bool:
        """Whether they are on different machines."""
        return (self.host, self.machine) != (other.host, other.machine)

    def _runs_here(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and (
                process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        job = f"job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} of {self.who} on {self.host}"


@contextlib.contextmanager
def driving(run: Storage) -> Iterator[None]:
    """The only driver of a run, while the block runs.

    Args:
        run: Where its checkpoints lie.

    Raises:
        KdeovError: Someone else drives it, at the start or, after a long silence of ours, later.
    """
    me = _claim(run)
    taken: list[Driver] = []
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED_S):
            try:
                holder = Driver.read(run)
                if holder is not None and holder.id != me.id:
                    taken.append(holder)
                    _thread.interrupt_main()
                    return
                replace(me, time=time.time()).write(run)
            except KdeovError as error:  # the storage is away; so it is for others
                logger.warning("%s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not taken:
            raise
        raise KdeovError(
            f"{run.address}: {taken[0]} has taken over this run, as nothing was heard of us for "
            f"more than {STALE_S:.0f} s; let it go on, or end it and start again"
        ) from None
    finally:
        ended.set()
        thread.join(RENEWED_S)
        if not taken:
            with contextlib.suppress(KdeovError):  # it goes stale
                run.delete(NAME)


def _claim(run: Storage) -> Driver:
    me = Driver.me()
    holder = Driver.read(run)
    if holder is not None:
        if not holder.gives_way_to(me):
            raise _refusal(run, holder)
        if me.time - holder.time > STALE_S and holder.elsewhere(me):
            # clocks may differ: one who lives writes again
            time.sleep(RENEWED_S + 5)
            again = Driver.read(run)
            if again is not None and again != holder:
                raise _refusal(run, again)
        logger.info("taking over from %s, which is over", holder)
    me.write(run)
    # of two at once, the last to write is the one: the other sees it after the time of a write
    time.sleep(0.2 if run.folder is not None else 1.0)
    holder = Driver.read(run)
    if holder is not None and holder.id != me.id:
        raise _refusal(run, holder)
    return me


def _refusal(run: Storage, holder: Driver) -> KdeovError:
    heard = max(0.0, time.time() - holder.time)
    return KdeovError(
        f"{run.address} is driven by {holder}, heard of {heard:.0f} s ago; wait for it, or end it "
        f"(a run is free {STALE_S:.0f} s after its driver is gone)"
    )
