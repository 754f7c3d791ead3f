"""An MLflow server that is away costs seconds, one warning and no epoch."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from pipeline.artifacts.run import RunRecord
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.report.publish import publish, run_address
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_runs import points, row, runs, tracker
from tests.helpers.mlflow_servers import MlflowServer
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def test_a_server_that_dies_during_a_run_costs_one_warning_and_no_epoch(
    mlflow_server: MlflowServer, reproduced: Checkout, tmp_path: Path, log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    uri = mlflow_server.uri
    layout = Layout(tmp_path / "checkout")
    shutil.copytree(reproduced.path, layout.root, symlinks=True)
    shutil.rmtree(layout.runs)  # as in a fresh clone
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    params, record = load_params(layout.params), RunRecord.read(layout.student)

    cut, absent = tracker(uri, "e" * 16), tracker(uri, record.fingerprint)
    cut.start()
    cut.log_epoch(row(1))
    mlflow_server.kill()
    began = time.monotonic()
    absent.start()
    for epoch in (2, 3):
        cut.log_epoch(row(epoch))
        absent.log_epoch(row(epoch - 1))
    assert time.monotonic() - began < 20
    assert [r.levelname for r in log.records] == ["WARNING", "WARNING"]
    assert all(uri in r.getMessage() and "kdeov publish" in r.getMessage() for r in log.records)

    mlflow_server.start()
    epochs = iter(range(4, 1000))
    written = [1, 2, 3]

    def next_epoch_is_written() -> bool:
        written.append(next(epochs))
        cut.log_epoch(row(written[-1]))
        return "can be written again" in log.text

    wait_for(next_epoch_is_written, seconds=60)
    (run,) = runs(uri, "e" * 16)
    assert list(points(uri, run)) == written

    # the other run ends before the server is back, and is published from its files
    run_id = publish(params, layout)
    (run,) = runs(uri, record.fingerprint)
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert list(points(uri, run)) == [1, 2, 3]
    assert run.data.params["distill.epochs"] == "3"
    assert 0 < run.data.metrics["accuracy/top1"] <= 1
    page = run_address(layout, record.fingerprint)
    assert page is not None
    assert page.startswith(f"{uri}/#/experiments/{run.info.experiment_id}/runs/{run_id}?")
    files_came_through_the_server(mlflow_server, run, layout, tmp_path)

    ended = run.info.end_time
    assert publish(params, layout) == run_id
    (run,) = runs(uri, record.fingerprint)
    assert run.info.end_time == ended  # what it shows already is left as it is


def files_came_through_the_server(
    server: MlflowServer, run: Run, layout: Layout, cwd: Path
) -> None:
    """Checks metrics, page and model of a published run."""
    assert str(run.info.artifact_uri).startswith("mlflow-artifacts:/")
    client = MlflowClient(server.uri)
    there = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert there >= {"metrics", "figures", "report"}
    got = download_artifacts(
        run_id=run.info.run_id, artifact_path="report/index.html", tracking_uri=server.uri
    )
    assert Path(got).read_bytes() == layout.report.read_bytes()
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, model.source_run_id, str(model.status)) == (
        "student", run.info.run_id, "READY",
    )  # fmt: skip
    assert list(server.artifacts.glob("**/MLmodel"))
    assert not (cwd / "mlruns").exists() and not (layout.root / "mlruns").exists()


def test_a_server_that_never_answers_costs_training_seconds(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # five, by default
    with socket.create_server(("127.0.0.1", 0)) as silent:
        live = tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "f" * 16)
        began = time.monotonic()
        live.start()
        for epoch in range(1, 6):
            live.log_epoch(row(epoch))
        assert time.monotonic() - began < 5
    assert [r.levelname for r in log.records] == ["WARNING"]
