"""The MLflow server of `kdeov ui`: serves the runs of a database on 127.0.0.1."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from kdeov.errors import ConfigError
from pipeline.runtime.compat import LOOPBACK
from pipeline.runtime.lifetime import signal_at_parents_end
from pipeline.tracking.compat import (
    HOSTS_VARIABLE,
    JOB_EXECUTION_VARIABLE,
    ORIGINS_VARIABLE,
)
from pipeline.tracking.target import TrackingTarget
from pipeline.tracking.view import UI_HOST

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(target: TrackingTarget, port: int, on_ready: Callable[[str], None]) -> int:
    """Serves a database until the process receives a signal.

    Args:
        target: The database.
        port: Port on 127.0.0.1.
        on_ready: Called with the server's address for browsers when the server answers.

    Returns:
        The exit status: 128 plus the number of the signal, or that of the server if it ended by
        itself.

    Raises:
        ConfigError: The port is in use.
    """
    _require_free(port)
    received: list[int] = []
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--workers", "1"],
        env={
            **os.environ,
            # not an argument: those can be read by all users of the machine
            "MLFLOW_BACKEND_STORE_URI": target.uri,
            **names_of_machine(port),
            # no job processes: half the memory, and half the time to start
            JOB_EXECUTION_VARIABLE: "false",
        },
        stdout=sys.stderr,  # standard output holds the address alone
        start_new_session=True,  # Ctrl-C reaches this process alone, which stops the server
        preexec_fn=signal_at_parents_end(),
    )

    def stop(number: int, _: object) -> None:
        received.append(number)
        server.terminate()

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    while server.poll() is None and not _answers(f"http://{LOOPBACK}:{port}"):
        time.sleep(0.2)
    if server.poll() is None and not received:
        on_ready(f"http://{UI_HOST}:{port}")
    status = server.wait()
    return 128 + received[0] if received else status


def names_of_machine(port: int) -> dict[str, str]:
    """Variables with the names by which the server may be asked, besides those of the user."""
    names = {
        HOSTS_VARIABLE: [f"{host}:{port}" for host in (UI_HOST, LOOPBACK, "localhost")],
        ORIGINS_VARIABLE: [f"http://{UI_HOST}:{port}"],
    }
    return {
        variable: ",".join([*filter(None, [os.environ.get(variable)]), *values])
        for variable, values in names.items()
    }


def _require_free(port: int) -> None:
    """Refuses a port in use; otherwise `_answers` would reach the other server there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}); give another one with --port"
            ) from error


def _answers(address: str) -> bool:
    # proxies of the environment do not apply to this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
