"""Copies of a checkout that DVC makes, runs and deletes log to the MLflow of the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.config.paths import Layout
from tests.helpers import ROOT
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_runs import points, runs

pytestmark = pytest.mark.slow

STAGE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
target = TrackingTarget.of(TrackingParams(), Layout.here())
with LiveTracker(target, "f" * 16, "run", {{}}, {{}}) as live:
    live.log_epoch({{"epoch": 1, "train_total": 1.0}})
"""
"""Stands for the pipeline: it logs one epoch."""


def test_the_run_of_an_experiment_in_a_temporary_folder_stays_after_it(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / "stage.py").write_text(STAGE, encoding="utf-8")
    stage = {"cmd": "python stage.py", "deps": ["stage.py"], "params": ["seed"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"log": stage}}), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("seed: 0\n", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("/work/\n", encoding="utf-8")
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm start"):
        checkout.run(*command.split())
    result = checkout.run("dvc", "exp", "run", "--temp", "-S", "seed=1", "-n", "apart")
    assert "apart" in result.stdout
    layout = Layout(tmp_path)
    uri = f"sqlite:///{layout.tracking_database}"
    (run,) = runs(uri, "f" * 16)
    assert list(points(uri, run)) == [1] and run.info.status == "RUNNING"
    location = MlflowClient(uri).get_experiment(run.info.experiment_id).artifact_location
    assert location == layout.tracking_artifacts.as_uri()
    assert not list(tmp_path.glob(".dvc/tmp/exps/**/stage.py"))
