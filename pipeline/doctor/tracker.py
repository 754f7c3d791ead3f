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
from pipeline.tracking.target import TrackingTarget, one_line, request_limits, tracking_errors

TAG = "kdeov.doctor"
FIX = "training goes on without it; run `kdeov publish` once it works"


def mlflow(params: Params, layout: Layout) -> list[Check]:
    """Checks that the tracking address can be written."""
    checks: list[Check] = []
    with report_errors("MLflow", checks):
        target = TrackingTarget.of(params.tracking, layout)
        if target.is_file:
            wrong = _file(Path(target.uri.removeprefix("sqlite:///")))
        else:
            wrong = _server(target) if target.is_server else _database(target.uri)
        if wrong:
            return [warning("MLflow", f"{target.address} cannot be written ({wrong})", FIX)]
        found = f"{target.address} can be written"
        if target.is_file and params.cluster.mode == "cluster":
            found = f"{target.address} is a local file: curves appear after the stage `report`"
        checks.append(ok("MLflow", found))
    return checks


def _file(path: Path) -> str:
    """The error of writing a SQLite file, or an empty text. The file is not created here."""
    if not path.exists():
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        return "" if folder.is_dir() and os.access(folder, os.W_OK) else f"{folder} is read-only"
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=1, uri=True)
        with contextlib.closing(database):
            database.execute("BEGIN IMMEDIATE")  # as every write does
            database.rollback()
    except sqlite3.Error as error:
        return one_line(error)
    return ""


def _server(target: TrackingTarget) -> str:
    """The error of setting and deleting a tag on a server, or an empty text."""
    try:
        with request_limits(timeout_s=10, max_retries=1):
            client = target.client()
            found = client.get_experiment_by_name(target.experiment)
            for experiment in [found] if found else client.search_experiments(max_results=1):
                client.set_experiment_tag(experiment.experiment_id, TAG, "writable")
                client.delete_experiment_tag(experiment.experiment_id, TAG)
    except tracking_errors() as error:
        return one_line(error)
    return ""


def _database(uri: str) -> str:
    """The error of connecting to a database, or an empty text. Tables are not created here."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        with contextlib.closing(engine.connect()) as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        engine.dispose()
    except tracking_errors() as error:
        return one_line(error)
    return ""
