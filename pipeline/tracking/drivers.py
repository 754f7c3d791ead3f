"""The process that drives a run, so that a run whose process was killed does not stay RUNNING."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import psutil

from pipeline.runtime.lifetime import created_at, find_process, machine_number

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DRIVER_TAG = "kdeov.driver"


def this_process() -> str:
    """The value of the tag: machine, process and the time when the process began."""
    return json.dumps([*_machine(), os.getpid(), created_at(psutil.Process())])


def has_ended(driver: str) -> bool:
    """Whether a process has ended; False where it belongs to another machine."""
    try:
        host, machine, pid, created = json.loads(driver)
        if [host, machine] != _machine():
            return False
        return find_process(pid, created) is None
    except (ValueError, TypeError):  # no tag of ours
        return False


def end_abandoned_runs(client: MlflowClient, experiment: str, current: Run) -> None:
    """Sets other runs to KILLED that are RUNNING and whose process has ended. Training or
    publishing one of them again makes it RUNNING or FINISHED.

    Args:
        client: MLflow's client.
        experiment: Id of the experiment.
        current: The run of this process.
    """
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.info.run_id != current.info.run_id and has_ended(run.data.tags.get(DRIVER_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")


def _machine() -> list[object]:
    return [socket.gethostname(), machine_number()]
