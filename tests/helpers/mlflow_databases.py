"""MLflow databases: one that is made once and copied, and ways in which one cannot be used."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.target import TrackingTarget

WithDatabase = Callable[[Path], TrackingTarget]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without an experiment; making one takes 5 s. For copying alone."""
    layout = Layout(tmp_path_factory.mktemp("database"))
    TrackingTarget.of(TrackingParams(), layout).client()
    return layout.tracking_database


@pytest.fixture(scope="session")
def with_database(database: Path) -> WithDatabase:
    """Gives a folder the database of a checkout; returns its target."""

    def give(root: Path) -> TrackingTarget:
        layout = Layout(root)
        layout.tracking_database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(database, layout.tracking_database)
        return TrackingTarget.of(TrackingParams(), layout)

    return give


def half_made(path: Path) -> None:
    """Leaves a database as a kill during its making does."""
    with sqlite3.connect(path) as database:
        for table in ("runs", "logged_models", "model_versions"):
            database.execute(f"DROP TABLE {table}")
        database.execute("DELETE FROM experiments")
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


def older(path: Path) -> None:
    """Gives a database the schema of an older MLflow."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


def newer(path: Path) -> None:
    """Gives a database a schema that this MLflow does not have."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def no_database(path: Path) -> None:
    """Overwrites a database with something else."""
    path.write_bytes(b"no database at all, and longer than a header " * 8)


def deleted(path: Path) -> None:
    """Deletes the experiment, as a click on the page does."""
    target = TrackingTarget.of(TrackingParams(), Layout(path.parents[2]))
    client = target.client()
    client.delete_experiment(target.experiment_id(client))
