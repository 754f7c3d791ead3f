"""Looks at the machines of a cluster that this process is no part of: a small job does so, and what
it finds comes back in its log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from kdeov.errors import KdeovError
from pipeline.doctor.node import Questions
from pipeline.doctor.nodes import Survey, survey

if TYPE_CHECKING:
    from pipeline.cluster.client import Dashboard

ASKED = "KDEOV_DOCTOR"  # variable that holds the questions
ANSWER = "kdeov-doctor: "  # begins the line of the log that holds the answers
PATIENCE_S = 300.0  # a cluster may have to install packages first
PAUSE_S = 0.5
QUESTIONS, SURVEY = TypeAdapter(Questions), TypeAdapter(Survey)


def survey_by_job(address: str, root: Path, questions: Questions) -> Survey:
    """Looks at all machines of a cluster.

    Args:
        address: Of its dashboard.
        root: The checkout, whose code travels.
        questions: What to look at.

    Raises:
        KdeovError: Nobody answers there, or the job does not end well.
    """
    from pipeline.cluster.client import Dashboard
    from pipeline.cluster.package import check_package
    from pipeline.runtime.ray_session import RAY_ENVIRONMENT

    check_package(root)
    dashboard = Dashboard(address)
    job = f"kdeov-doctor-{uuid.uuid4().hex[:16]}"
    asked = {ASKED: QUESTIONS.dump_json(questions).decode()}
    dashboard.submit(job, "exec python -m pipeline.doctor.by_job", root, RAY_ENVIRONMENT | asked)
    with contextlib.ExitStack() as undo:
        undo.callback(dashboard.stop, job)
        _wait(dashboard, job)
        undo.pop_all()  # it has ended by itself
    lines = dashboard.log(job).splitlines()
    answers = [line.removeprefix(ANSWER) for line in lines if line.startswith(ANSWER)]
    if not answers:
        last = lines[-1][:200] if lines else "no log"
        raise KdeovError(f"{address}: the job {job} failed ({last}); its log is in the dashboard")
    return SURVEY.validate_json(answers[0])


def _wait(dashboard: Dashboard, job: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while (info := dashboard.info(job)) is not None and not info.status.is_terminal():
        if time.monotonic() > end:
            raise KdeovError(
                f"{dashboard.address}: the job {job} did not end within {PATIENCE_S:.0f} s; see "
                "its log in the dashboard"
            )
        time.sleep(PAUSE_S)


def answer() -> None:
    """The job itself."""
    import ray

    from pipeline.console import setup_logging, stdout

    setup_logging()
    ray.init(address="auto", logging_level=logging.WARNING)
    found = survey(QUESTIONS.validate_json(os.environ[ASKED]))
    stdout.file.write(f"{ANSWER}{SURVEY.dump_json(found).decode()}\n")


if __name__ == "__main__":
    answer()
