"""A real `mlflow server` on this machine, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.server import names_of_machine
from tests.helpers import ROOT
from tests.helpers.waiting import wait_for


class MlflowServer:
    """A server over HTTP that can be killed and started again on the same port.

    Attributes:
        database: Address of its database.
        artifacts: Folder of its files.
        uri: Address of the server.
    """

    def __init__(self, folder: Path, database: str) -> None:
        self.database, self.artifacts = database, folder / "artifacts"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        options = ["--workers", "1", "--artifacts-destination", str(self.artifacts)]
        own = {
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **names_of_machine(self.port),
        }
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                env=os.environ | own, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(self._answers, self._log)

    def kill(self) -> None:
        """Sends SIGKILL to all processes of the server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text(
            encoding="utf-8"
        )
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        return False


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Starts a PostgreSQL in a temporary folder, with a socket there; yields its address.

    Skips the test where PostgreSQL is absent.
    """
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib").glob("postgresql/*/bin/initdb"))]
    programs = [Path(path).resolve().parent for path in found if path]
    if not programs:
        pytest.skip("PostgreSQL is absent: install Debian's package postgresql")
    # PostgreSQL refuses root, and pytest's folders are closed to other users
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
    user = user if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 characters
    try:
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        subprocess.run(
            [programs[0] / "initdb", "-D", data, "-U", "kdeov", "-E", "UTF8", "--locale=C",
             "--auth=trust", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        log = folder / "log"
        with open(log, "wb") as file:
            server = subprocess.Popen(
                [programs[0] / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=",
                 "-c", "fsync=off"],
                user=user, cwd=folder, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            wait_for(lambda: b"ready to accept connections" in log.read_bytes(), log)
            # with its driver: SQLAlchemy 2.1 would look for another one
            yield f"postgresql+psycopg2://kdeov:hush-hush@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # its fast way to stop
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user: str) -> bool:
    import pwd

    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def mlflow_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """One server a database for all tests; each test has fingerprints of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with contextlib.ExitStack() as stack:
        database = f"sqlite:///{folder / 'mlflow.db'}"
        if request.param == "postgresql":
            database = stack.enter_context(postgresql())
        server = MlflowServer(folder, database)
        stack.callback(server.kill)
        server.start()
        yield server


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServedModel:
    """A real `mlflow models serve` on this machine, in the environment of the tests.

    Attributes:
        uri: Address of the server.
    """

    def __init__(self, folder: Path, address: str, tracking_uri: str) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._log = folder / "serve.log"
        options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
        programs = str(Path(sys.executable).parent)
        own = {
            "MLFLOW_TRACKING_URI": tracking_uri,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "models", "serve", "-m", address, *options],
                cwd=folder, env=os.environ | own, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(self._answers, self._log)

    def post(self, body: object) -> tuple[int, Any]:
        """Status and JSON of an answer to `/invocations`."""
        request = urllib.request.Request(
            f"{self.uri}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def kill(self) -> None:
        """Sends SIGKILL to all processes of the server."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        return False
