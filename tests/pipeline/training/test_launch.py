"""MLflow shows every epoch of a run, whoever drove it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.paths import Layout
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from pipeline.training.launch import launch
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics
from tests.helpers.mlflow_runs import points, runs
from tests.helpers.training_runs import Killed, MakeParams, config


@pytest.mark.slow
def test_an_epoch_whose_report_was_lost_is_logged_with_the_next_one(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = config(built, make_params(distill={"epochs": 3}), tmp_path / "run")

    def die(_: EpochMetrics) -> None:
        raise Killed

    with pytest.raises(Killed):
        train(run, die)  # after the checkpoint of epoch 1
    tracker = LiveTracker(TrackingTarget(uri, "kdeov", None), "a" * 16, "a run", {}, {})
    tracker.start()
    launch(run.with_cluster(mode="inline"), "a-run", tracker)
    (found,) = runs(uri, "a" * 16)
    assert list(points(uri, found)) == [1, 2, 3]
