"""Check of MLflow: the tracking address answers and can be written. Nothing is left behind.

MLflow never stops a run, so its errors are warnings here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, ok, report_errors, warning
from pipeline.storage.files import existing
from pipeline.tracking.errors import TrackingError, tracking_errors
from pipeline.tracking.target import TrackingTarget, request_limits

TAG = "kdeov.doctor"
FIX = "training goes on without it; run `kdeov publish` once it works"


def mlflow(params: Params, layout: Layout) -> list[Check]:
    """Checks that the tracking address can be written."""
    checks: list[Check] = []
    with report_errors("MLflow", checks):
        target = TrackingTarget.of(params.tracking, layout)
        try:
            _require_writable(target)
        except tracking_errors() as error:
            reason, cure = target.explain(error)
            finding = f"{target.address} cannot be written ({reason})"
            return [warning("MLflow", finding, f"{cure}; {FIX}")]
        found = f"{target.address} can be written"
        if target.file and params.cluster.mode == "cluster":
            found = f"{target.address} is a local file: curves appear after the stage `report`"
        checks.append(ok("MLflow", found))
    return checks


def _require_writable(target: TrackingTarget) -> None:
    """Asks MLflow for the experiment, and for a tag to set and delete. A database without tables
    is asked for a connection alone: its tables are not made here.

    Raises:
        One of `tracking_errors`: It cannot be written.
    """
    if target.file:
        _require_writable_file(target.file)
    if not target.is_server and target.is_empty():
        return
    with request_limits(timeout_s=10, max_retries=1):
        client = target.client()
        found = target.find_experiment(client)
        if target.file:
            return
        any_experiment = client.search_experiments(max_results=1)
        for experiment in [found] if found else [e.experiment_id for e in any_experiment]:
            client.set_experiment_tag(experiment, TAG, "writable")
            client.delete_experiment_tag(experiment, TAG)


def _require_writable_file(path: Path) -> None:
    """Begins a write of a SQLite file, or looks at the folder where the file is still to be made.

    Raises:
        OSError, TrackingError: It cannot be written.
    """
    if not path.exists():
        folder = existing(path.parent)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise TrackingError(f"{folder} is read-only", f"let this user write {folder}")
        return
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=1, uri=True)
        with contextlib.closing(database):
            database.execute("BEGIN IMMEDIATE")  # as every write does
            database.rollback()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
