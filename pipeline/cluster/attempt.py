"""An attempt at a job as the storage has it: what another head needs to run the job again, and
whether its driver still lives. The cluster forgets its jobs with its head; the storage does not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kdeov.errors import DataError
from pipeline.cluster.client import Dashboard
from pipeline.cluster.package import pack, package_name, unpack
from pipeline.runtime.job import JOB, Job
from pipeline.runtime.ray_session import PREEMPTION, set_ray_environment
from pipeline.runtime.run_lock import LOCK_EXPIRY_S, RELEASED, driver_is_gone, read_driver
from pipeline.storage.checked import checked_json, parse_checked_json
from pipeline.storage.files import sha256_file
from pipeline.storage.storage import Storage, open_storage

SUBMITTED = "submitted.json"
STOPPED = "stopped.json"
JOBS = "jobs"
LOSS_LIMIT_S = LOCK_EXPIRY_S + 30  # after which a job that shows life is none that was lost
LOSS_POLL_S = 10.0


@dataclass(frozen=True)
class Submitted:
    """How an attempt was submitted.

    Attributes:
        package: SHA-256 of the code's package, which the storage has as `packages/SHA256.zip`.
        variables: Environment of the driver, besides Ray's own.
        address: Dashboard of the cluster.
        time: Seconds since 1970.
    """

    package: str
    variables: dict[str, str]
    address: str
    time: float


@dataclass(frozen=True)
class Attempt:
    """An attempt at a job.

    Attributes:
        storage: Storage of the job.
        id: Name of the job and number of the attempt.
    """

    storage: Storage
    id: str

    @property
    def folder(self) -> Storage:
        """Its folder in the storage."""
        return self.storage / f"{JOBS}/{self.id}"

    @property
    def name(self) -> str:
        """Name of the job, which all of its attempts have."""
        return self.id.rpartition("-")[0]

    @property
    def number(self) -> int:
        """Number of the attempt, from 1."""
        return int(self.id.rpartition("-")[2])

    @property
    def next(self) -> Attempt:
        """The one after it."""
        return Attempt(self.storage, f"{self.name}-{self.number + 1}")

    @property
    def newest(self) -> Attempt:
        """The newest one of the job, from this one on."""
        found = self
        while found.next.folder.size("job.json") is not None:
            found = found.next
        return found

    @property
    def done(self) -> bool:
        """Whether its outputs are in the storage."""
        return self.folder.size("outputs.json") is not None

    @property
    def stopped(self) -> bool:
        """Whether a user stopped it."""
        return self.folder.size(STOPPED) is not None

    def mark_stopped(self) -> None:
        """Records that a user stopped it, so that no head takes it up."""
        self.folder.write(STOPPED, checked_json({"time": time.time()}))

    @property
    def ended(self) -> bool:
        """Whether its driver has come to an end by itself: with outputs, or with an error."""
        driver = read_driver(self.folder)[1]
        return self.done or (driver is not None and driver.time == RELEASED)

    @property
    def seen(self) -> float:
        """When it last showed life, in seconds since 1970; 0 where it never did."""
        driver, submitted = read_driver(self.folder)[1], self.submitted
        if driver is not None and driver.time != RELEASED:
            return driver.time
        return submitted.time if submitted else 0.0

    @property
    def is_gone(self) -> bool:
        """Whether no driver runs it and none is about to. To be sure takes some seconds."""
        if read_driver(self.folder)[1] is not None:
            return driver_is_gone(self.folder)
        return abs(time.time() - self.seen) > LOCK_EXPIRY_S  # else a cluster may just start it

    @property
    def submitted(self) -> Submitted | None:
        """How it was submitted; None for one of an older version.

        Raises:
            DataError: The record is damaged, or of a newer version.
        """
        where, fix = self.folder.where(SUBMITTED), "delete it and submit the job again"
        try:
            return Submitted(**parse_checked_json(self.folder.read(SUBMITTED), where, fix))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise DataError(f"{where}: of another version ({error}); {fix}") from error

    def submit(self, job: Job, code: Path, dashboard: Dashboard, variables: dict[str, str]) -> None:
        """Writes to the storage what any head needs to run the job, then submits it to a cluster.

        Args:
            job: The job, whose inputs are in the storage.
            code: Checkout, or another folder with its code.
            dashboard: Dashboard of the cluster.
            variables: Environment of the driver, besides Ray's own.
        """
        with tempfile.TemporaryDirectory() as name:
            package = pack(code, Path(name) / "package.zip")
            sha256 = sha256_file(package)
            if self.storage.size(package_name(sha256)) != package.stat().st_size:
                self.storage.upload(package, package_name(sha256))
        submitted = Submitted(sha256, variables, dashboard.address, time.time())
        self.folder.write(SUBMITTED, checked_json(asdict(submitted)))
        job.write(self.folder)
        dashboard.submit(
            self.id,
            f"exec python -m stages.{job.stage}",
            code,
            # nodes of a cluster may be preempted, so workers watch for notices
            {**variables, **set_ray_environment(), PREEMPTION: "1", JOB: self.folder.address},
        )

    @contextmanager
    def code(self, submitted: Submitted) -> Iterator[Path]:
        """A temporary folder with the code of the job.

        Raises:
            DataError: The package is not in the storage, or damaged.
        """
        with tempfile.TemporaryDirectory() as name:
            yield unpack(self.storage, submitted.package, Path(name))


def attempts_in(address: str) -> list[Attempt]:
    """The newest attempt at each job of a storage."""
    storage = open_storage(address)
    newest: dict[str, Attempt] = {}
    for name in storage.names(JOBS):
        base, _, number = name.rpartition("-")
        if not (base.startswith("kdeov-") and number.isdigit()):
            continue
        found = Attempt(storage, name)
        if base not in newest or newest[base].number < found.number:
            newest[base] = found
    return list(newest.values())
