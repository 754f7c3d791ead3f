"""Takes up jobs that were lost with a cluster's head, on the head that came back or on another one.
Everything they need lies in the storage, so no checkout has to be there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kdeov.errors import KdeovError
from pipeline.cluster.attempt import JOBS, LOSS_LIMIT_S, LOSS_POLL_S, Attempt
from pipeline.cluster.client import Dashboard
from pipeline.cluster.records import Record
from pipeline.config.paths import Layout
from pipeline.runtime.job import Job
from pipeline.storage.storage import open_storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        attempt: The newest attempt.
        state: In a few words.
        stage: Stage of the job, where it was submitted again; else empty.
        failed: Whether it was lost and could not be taken up.
    """

    attempt: Attempt
    state: str
    stage: str = ""
    failed: bool = False


def attempt_of(record: Record) -> Attempt:
    """The attempt that a checkout has recorded."""
    address, _, _ = record.folder.rpartition(f"/{JOBS}/")
    return Attempt(open_storage(address), record.id)


def attempts_of(records: Iterable[Record]) -> list[Attempt]:
    """The newest attempt at each job that a checkout has submitted, in the order of the first."""
    found: dict[str, Attempt] = {}
    for attempt in map(attempt_of, records):
        if attempt.name not in found or found[attempt.name].number < attempt.number:
            found[attempt.name] = attempt
    return [attempt.newest for attempt in found.values()]


def resume(
    attempts: Iterable[Attempt], dashboard: Dashboard, max_age_s: float
) -> Iterator[Outcome]:
    """Submits again what was lost, and says of the other jobs why they are left alone.

    Args:
        attempts: The newest attempt at each job.
        dashboard: Cluster that runs them from now on.
        max_age_s: Jobs without a sign of life for longer are left: nobody waits for them.

    Raises:
        KdeovError: The cluster does not answer.
    """
    for attempt in attempts:
        try:
            yield _resume(attempt, dashboard, max_age_s)
        except KdeovError as error:  # of this job; a cluster that is away fails for all
            dashboard.info(attempt.id)
            yield Outcome(attempt, str(error), failed=True)


def _resume(attempt: Attempt, dashboard: Dashboard, max_age_s: float) -> Outcome:
    if attempt.done:
        return Outcome(attempt, "succeeded; `dvc repro` fetches its outputs")
    info = dashboard.info(attempt.id)
    if info is not None and not info.status.is_terminal():
        return Outcome(attempt, "runs")
    if attempt.stopped or (info is not None and info.status == "STOPPED"):
        return Outcome(attempt, "was stopped by a user; `dvc repro` starts it again")
    if attempt.ended:
        return Outcome(attempt, "failed; `dvc repro` starts it again")
    age = time.time() - (seen := attempt.seen)
    if seen and age > max_age_s:
        return Outcome(attempt, f"silent for {age / 3600:,.0f} hours; `dvc repro` starts it again")
    end = time.monotonic() + LOSS_LIMIT_S
    while info is None and not attempt.is_gone:
        if time.monotonic() > end:
            return Outcome(attempt, "runs on another cluster")
        time.sleep(LOSS_POLL_S)
    submitted = attempt.submitted
    if submitted is None:
        state = "of an older version; `dvc repro` starts it again"
        return Outcome(attempt, state, failed=True)
    job, again = Job.read(attempt.folder), attempt.next
    with attempt.code(submitted) as code:
        again.submit(job, code, dashboard, submitted.variables)
    logger.info("%s was lost; submitted %s to %s", attempt.id, again.id, dashboard.address)
    return Outcome(again, f"submitted, as {attempt.id} was lost", job.stage)


def record(outcome: Outcome, dashboard: Dashboard, layout: Layout) -> None:
    """Writes a job that was submitted again into the records of a checkout."""
    if outcome.stage:
        attempt = outcome.attempt
        Record(
            outcome.stage, attempt.id, dashboard.address, attempt.folder.address, time.time()
        ).write(layout)
