"""Runs on a tracking server, as tests write and read them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.mlflow_run import FINGERPRINT_TAG, LiveTracker
from pipeline.tracking.target import TrackingTarget

Row = dict[str, float]


def row(epoch: int, **more: float) -> Row:
    """Metrics of an epoch."""
    return {"epoch": epoch, "train_total": 1 / epoch, "workers": 2, **more}


def tracker(uri: str, fingerprint: str, experiment: str = "kdeov") -> LiveTracker:
    """A tracker of one run."""
    target = TrackingTarget(uri, experiment, None)
    return LiveTracker(target, fingerprint, f"run-{fingerprint}", {"a": {"b": 1}}, {})


def runs(uri: str, fingerprint: str, experiment: str = "kdeov") -> list[Run]:
    """Runs with a fingerprint; a sound experiment has one."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client.search_runs([found.experiment_id], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")


def points(uri: str, run: Run, name: str = "train/total") -> dict[int, float]:
    """Values of a metric by epoch; fails where an epoch has two."""
    history = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    assert len({point.step for point in history}) == len(history)
    return {point.step: point.value for point in sorted(history, key=lambda p: p.step)}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Log records of the pipeline."""
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    caplog.set_level(logging.INFO, logger="pipeline")
    return caplog
