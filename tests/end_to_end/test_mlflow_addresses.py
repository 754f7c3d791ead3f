"""Databases and logins as tracking addresses, without a secret in any log; `kdeov ui`."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_runs import points, row, runs, tracker
from tests.helpers.mlflow_servers import MlflowServer, free_port
from tests.helpers.waiting import next_line

pytestmark = pytest.mark.slow

on_sqlite = pytest.mark.parametrize("mlflow_server", ["sqlite"], indirect=True)


@pytest.mark.parametrize("mlflow_server", ["postgresql"], indirect=True)
def test_a_database_serves_as_address_and_its_password_is_never_logged(
    mlflow_server: MlflowServer, tmp_path: Path, log: Any
) -> None:
    uri = mlflow_server.database.replace("+psycopg2", "")
    layout = Layout(tmp_path)
    # an experiment of its own: the first to create one decides where its files go
    target = TrackingTarget.of(TrackingParams(uri=uri, experiment="by database"), layout)
    LiveTracker(target, "1" * 16, "run", {}, {}).log_epoch(row(1))
    (run,) = runs(mlflow_server.uri, "1" * 16, "by database")
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
    """A proxy in front of MLflow that asks for a name and a password."""
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
def test_a_login_comes_from_the_environment_or_the_address_and_is_never_logged(
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


def test_ui_prints_its_address_once_it_answers_and_stops_with_the_command(
    reproduced: Checkout,
) -> None:
    port = free_port()
    server = subprocess.Popen(
        ["kdeov", "ui", "--port", str(port)], cwd=reproduced.path, env=reproduced.environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")  # fmt: skip
    try:
        address = next_line(server, seconds=120).strip()
        assert address.startswith(f"http://kdeov.localhost:{port}/#/experiments/1/runs?")
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
        assert b"MLflow" in page.read()
    finally:
        server.terminate()
        status = server.wait(60)
    assert status == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
