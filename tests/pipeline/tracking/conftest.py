"""Fixtures of MLflow's tests: a database, made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.target import TrackingTarget

NewCheckout = Callable[[Path], TrackingTarget]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without an experiment; making one takes 5 s. For copying alone."""
    layout = Layout(tmp_path_factory.mktemp("database"))
    TrackingTarget.of(TrackingParams(), layout).client()
    return layout.tracking_database


@pytest.fixture(scope="session")
def with_database(database: Path) -> NewCheckout:
    """Gives a folder the database of a checkout; returns its target."""

    def give(root: Path) -> TrackingTarget:
        layout = Layout(root)
        layout.tracking_database.parent.mkdir(parents=True)
        shutil.copy(database, layout.tracking_database)
        return TrackingTarget.of(TrackingParams(), layout)

    return give
