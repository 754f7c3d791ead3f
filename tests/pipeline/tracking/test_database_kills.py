"""MLflow's database is made whole, whoever is killed and however many begin at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.target import TrackingTarget
from tests.helpers.kills import kill, start, succeeds
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def kill_then_begin_at_once(checkout: str) -> None:
    """Kills the first process that makes the database; then two make it at the same moment."""
    from mlflow import MlflowClient

    target = TrackingTarget.of(TrackingParams(), Layout(Path(checkout)))
    assert target.file is not None and issubclass(MlflowClient, object)
    partial = target.file.with_name("mlflow.db.partial")

    def use() -> None:
        target.experiment_id(target.client())

    first = start(use)
    wait_for(lambda: partial.exists() and partial.stat().st_size > 0, seconds=60)
    assert kill(first) and not target.file.exists() and partial.exists()
    pids = [start(use), start(use)]
    assert [succeeds(pid) for pid in pids] == [True, True]


def test_a_kill_leaves_no_half_made_database_and_two_that_begin_at_once_share_one(
    tmp_path: Path, run_python: Callable[..., Any]
) -> None:
    done = run_python("-m", __name__, str(tmp_path))
    assert done.returncode == 0, done.stderr
    target = TrackingTarget.of(TrackingParams(), Layout(tmp_path))
    assert target.find_experiment(target.client()) == "1"
    assert target.file is not None
    left = {path.name for path in target.file.parent.iterdir()}
    assert left - {".mlflow.db.lock"} == {"mlflow.db"}


if __name__ == "__main__":
    kill_then_begin_at_once(sys.argv[1])
