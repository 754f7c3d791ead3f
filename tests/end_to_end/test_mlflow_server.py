"""A real MLflow server over HTTP: one run a fingerprint, each epoch once, whatever dies."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import logging
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from pipeline.artifacts.run import RunRecord
from pipeline.config.execution_params import TrackingParams
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.report.publish import publish, run_address
from pipeline.tracking.mlflow_run import FINGERPRINT, LiveTracker
from pipeline.tracking.target import TrackingTarget
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_servers import MlflowServer, free_port, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, float]
on_sqlite = pytest.mark.parametrize("mlflow_server", ["sqlite"], indirect=True)


def row(epoch: int, **more: float) -> Row:
    return {"epoch": epoch, "train_total": 1 / epoch, "workers": 2, **more}


def tracker(uri: str, fingerprint: str, experiment: str = "kdeov") -> LiveTracker:
    target = TrackingTarget(uri, experiment, None)
    return LiveTracker(target, fingerprint, f"run-{fingerprint}", {"a": {"b": 1}}, {})


def runs(uri: str, fingerprint: str, experiment: str = "kdeov") -> list[Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client.search_runs([found.experiment_id], f"tags.`{FINGERPRINT}` = '{fingerprint}'")


def points(uri: str, run: Run, name: str = "train/total") -> dict[int, float]:
    """By epoch; fails where an epoch has two."""
    history = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    assert len({point.step for point in history}) == len(history)
    return {point.step: point.value for point in sorted(history, key=lambda p: p.step)}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    caplog.set_level(logging.INFO, logger="pipeline")
    return caplog


def test_every_epoch_is_told_once_with_how_many_worked_on_it(mlflow_server: MlflowServer) -> None:
    uri = mlflow_server.uri
    first = tracker(uri, "a" * 16)
    first.start()
    first.log_epoch(row(1))
    first.log_epoch(row(2))
    first.log_epoch(row(2))  # a worker was killed after its report and before its checkpoint
    first.log_epoch(row(3, workers=1))
    first.log_epochs([row(1), row(2), row(3)])
    (run,) = runs(uri, "a" * 16)
    assert points(uri, run) == {1: 1, 2: 1 / 2, 3: 1 / 3}
    assert points(uri, run, "progress/workers") == {1: 2, 2: 2, 3: 1}
    assert run.data.params == {"a.b": "1"}


def test_numbers_that_are_none_are_told_as_such(mlflow_server: MlflowServer) -> None:
    uri = mlflow_server.uri
    on_progress = tracker(uri, "b" * 16)
    on_progress.log_epoch(row(1, val_cosine=math.nan, val_loss=math.inf))
    (run,) = runs(uri, "b" * 16)
    assert math.isnan(points(uri, run, "val/cosine")[1])
    assert points(uri, run, "val/loss")[1] >= sys.float_info.max
    on_progress.log_epochs([row(1, val_cosine=math.nan, val_loss=math.inf)])
    assert len(points(uri, run, "val/cosine")) == 1


def test_a_driver_killed_at_any_moment_and_started_again_tells_every_epoch_once(
    mlflow_server: MlflowServer,
) -> None:
    script = f"""
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
target = TrackingTarget({mlflow_server.uri!r}, "kdeov", None)
told, epoch = LiveTracker(target, "c" * 16, "run", {{}}, {{}}), 0
while True:
    epoch += 1
    told.log_epoch({{"epoch": epoch, "train_total": 1 / epoch}})
"""
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)

    def three_epochs_are_there() -> bool:
        assert driver.poll() is None
        found = MlflowClient(mlflow_server.uri).get_experiment_by_name("kdeov") and runs(
            mlflow_server.uri, "c" * 16
        )
        return bool(found) and len(points(mlflow_server.uri, found[0])) >= 3

    try:
        wait_for(three_epochs_are_there)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    again = tracker(mlflow_server.uri, "c" * 16)
    again.start()
    again.log_epochs([row(epoch) for epoch in range(1, 401)])
    (run,) = runs(mlflow_server.uri, "c" * 16)
    assert list(points(mlflow_server.uri, run)) == list(range(1, 401))


def test_two_drivers_that_start_at_once_end_with_one_experiment_and_one_run(
    mlflow_server: MlflowServer,
) -> None:
    uri = mlflow_server.uri
    barrier = threading.Barrier(4)

    def drive(number: int) -> None:
        on_progress = tracker(uri, "d" * 16, "at once")
        barrier.wait()
        on_progress.start()
        barrier.wait()
        on_progress.log_epochs([row(number + 1)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, range(4)))
    (run,) = runs(uri, "d" * 16, "at once")
    assert set(points(uri, run)) == {1, 2, 3, 4}


def test_a_server_that_dies_amid_a_run_costs_one_warning_and_no_epoch(
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
    epoch = 3
    while "can be written again" not in log.text and epoch < 200:
        epoch += 1
        cut.log_epoch(row(epoch))
        time.sleep(0.2)
    (run,) = runs(uri, "e" * 16)
    assert list(points(uri, run)) == list(range(1, epoch + 1))

    # the other run ends before the server is back, and is published from its files
    run_id = publish(params, layout)
    (run,) = runs(uri, record.fingerprint)
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert list(points(uri, run)) == [1, 2, 3]
    assert run.data.params["distill.epochs"] == "3"
    assert 0 < run.data.metrics["zeroshot/top1"] <= 1
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
    """Of a published run, the metrics, the page and a model that can be loaded."""
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
        on_progress = tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "f" * 16)
        began = time.monotonic()
        on_progress.start()
        for epoch in range(1, 6):
            on_progress.log_epoch(row(epoch))
        assert time.monotonic() - began < 5
    assert [r.levelname for r in log.records] == ["WARNING"]


@pytest.mark.parametrize("mlflow_server", ["postgresql"], indirect=True)
def test_a_database_serves_as_address_and_its_password_is_told_nowhere(
    mlflow_server: MlflowServer, tmp_path: Path, log: Any
) -> None:
    uri = mlflow_server.database.replace("+psycopg2", "")
    layout = Layout(tmp_path)
    target = TrackingTarget.of(TrackingParams(uri=uri), layout)
    LiveTracker(target, "1" * 16, "run", {}, {}).log_epoch(row(1))
    (run,) = runs(mlflow_server.uri, "1" * 16)
    assert list(points(mlflow_server.uri, run)) == [1]
    assert not log.records
    gone = TrackingParams(uri=uri.replace("/postgres?", "/absent?"))
    began = time.monotonic()
    LiveTracker(TrackingTarget.of(gone, layout), "1" * 16, "run", {}, {}).start()
    assert time.monotonic() - began < 5
    (record,) = log.records
    text = record.getMessage()
    assert 'database "absent" does not exist' in text and "hush" not in text and "\n" not in text


@contextmanager
def behind_a_login(server: MlflowServer, user: str, password: str) -> Iterator[str]:
    """A proxy that asks for a name and a password, as people put one in front of MLflow."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != wanted:
                return self.answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "who?"}')
            there = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            kind = {"Content-Type": self.headers.get("Content-Type", "")}
            there.request(self.command, self.path, body, kind)
            answer = there.getresponse()
            self.answer(answer.status, answer.read())

        do_POST = do_GET

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever).start()
    try:
        yield f"127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()


@on_sqlite
def test_a_login_comes_from_the_environment_or_the_address_and_is_told_nowhere(
    mlflow_server: MlflowServer, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with behind_a_login(mlflow_server, "anna", "hush-hush") as host:
        tracker(f"http://anna:wrong-hush@{host}", "2" * 16).start()
        (record,) = log.records
        text = record.getMessage()
        assert f"http://{host} cannot be written" in text and "MLFLOW_TRACKING_USERNAME" in text
        assert "hush" not in text and "anna" not in text
        log.clear()
        tracker(f"http://anna:hush-hush@{host}", "2" * 16).log_epoch(row(1))
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
        tracker(f"http://{host}", "2" * 16).log_epoch(row(2))
    assert not log.records
    (run,) = runs(mlflow_server.uri, "2" * 16)
    assert list(points(mlflow_server.uri, run)) == [1, 2]
    assert "hush" not in json.dumps([run.data.tags, run.data.params])


def test_the_page_is_named_once_it_answers_and_ends_with_the_command(reproduced: Checkout) -> None:
    port = free_port()
    command = f"from pipeline.cli.main import app; app(['ui', '--port', '{port}'])"
    shown = subprocess.Popen(
        [sys.executable, "-c", command], cwd=reproduced.path, env=reproduced.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert shown.stdout is not None
        address = shown.stdout.readline().strip()
        assert address.startswith(f"http://127.0.0.1:{port}/#/experiments?")
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
        assert b"MLflow" in page.read()
    finally:
        shown.terminate()
        status = shown.wait()
    assert status == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
