"""Judges MLflow: whether it answers, and takes what is written. Nothing is left behind.

MLflow never stops a run, so that what is wrong with it is a warning.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.doctor.check import Check, complaints, ok, warning
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.tracking import TrackingTarget, one_line, tracking_errors

TAG = "kdeov.doctor"
CURE = "training goes on without it; `kdeov publish` brings it up to date later"


def mlflow(params: Params, layout: Layout) -> list[Check]:
    """Whether the tracking address can be written."""
    checks: list[Check] = []
    with complaints("MLflow", checks):
        target = TrackingTarget.of(params.tracking, layout)
        shown = without_password(target.uri)
        if target.uri.startswith("sqlite:///"):
            wrong = _sqlite(Path(target.uri.removeprefix("sqlite:///")))
            if not wrong and params.cluster.mode == "cluster":
                text = f"{shown} is a file, which no job of a cluster can write"
                cure = "`kdeov publish` fills it later; give tracking.uri a server (http://...)"
                return [warning("MLflow", text, cure)]
        else:
            wrong = _server(target) if target.uri.startswith("http") else _database(target.uri)
        if wrong:
            secret = urlsplit(target.uri).password
            reason = wrong.replace(secret, "***") if secret else wrong
            return [warning("MLflow", f"{shown} cannot be written ({reason})", CURE)]
        checks.append(ok("MLflow", f"{shown} can be written"))
    return checks


def without_password(uri: str) -> str:
    """An address as people may see it."""
    secret = urlsplit(uri).password
    return uri.replace(f":{secret}@", ":***@", 1) if secret else uri


def _sqlite(path: Path) -> str:
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
        client = target.client()
        found = client.get_experiment_by_name(target.experiment)
        experiments = [found] if found else client.search_experiments(max_results=1)
        for experiment in experiments:
            client.set_experiment_tag(experiment.experiment_id, TAG, "writable")
            client.delete_experiment_tag(experiment.experiment_id, TAG)
    except tracking_errors() as error:
        return one_line(error)
    return ""


def _database(uri: str) -> str:
    """What keeps a database server from being reached, if anything."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        with contextlib.closing(engine.connect()) as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        return one_line(error)
    return ""
