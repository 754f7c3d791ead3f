"""Judges MLflow: whether it answers, and takes what is written. Nothing is left behind.

MLflow never stops a run, so that what is wrong with it is a warning.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, complaints, ok, warning
from pipeline.tracking.target import TrackingTarget, one_line, request_limits, tracking_errors

TAG = "kdeov.doctor"
CURE = "training goes on without it; `kdeov publish` brings it up to date later"


def mlflow(params: Params, layout: Layout) -> list[Check]:
    """Whether the tracking address can be written."""
    checks: list[Check] = []
    with complaints("MLflow", checks):
        target = TrackingTarget.of(params.tracking, layout)
        if target.is_file:
            wrong = _file(Path(target.uri.removeprefix("sqlite:///")))
        else:
            wrong = _server(target) if target.is_server else _database(target.uri)
        if wrong:
            return [warning("MLflow", f"{target.address} cannot be written ({wrong})", CURE)]
        found = f"{target.address} can be written"
        if target.is_file and params.cluster.mode == "cluster":
            found = f"{target.address} is a file of the checkout: curves come with the report"
        checks.append(ok("MLflow", found))
    return checks


def _file(path: Path) -> str:
    """What keeps a database from being written, if anything. It is not made here."""
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
    """What keeps a server from being written, if anything: a tag comes and goes."""
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
    """What keeps a database from being reached, if anything. Its tables are not made here."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        with contextlib.closing(engine.connect()) as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        engine.dispose()
    except tracking_errors() as error:
        return one_line(error)
    return ""
