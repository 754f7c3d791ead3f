"""Serves the MLflow page of a checkout, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from kdeov.errors import KdeovError
from pipeline.tracking.target import TrackingTarget

HOST = "127.0.0.1"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(target: TrackingTarget, port: int, ready: Callable[[str], None]) -> int:
    """Serves a database until a signal ends it.

    Args:
        target: Where the runs are.
        port: On this machine.
        ready: Called with the address once it answers.

    Returns:
        The exit status: 128 and the signal's number where one has ended it.

    Raises:
        KdeovError: The port is taken.
    """
    _require_free(port)
    stopped: list[int] = []
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port),
         "--workers", "1"],
        env={
            **os.environ,
            # not among the arguments, which everybody on the machine can read
            "MLFLOW_BACKEND_STORE_URI": target.uri,
            # one worker and no job runner: half the memory, and a start in half the time
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        stdout=sys.stderr,  # standard output holds the address alone
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends all of the server
    )  # fmt: skip

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        server.terminate()

    for number in STOPS:
        signal.signal(number, stop)
    address = f"http://{HOST}:{port}"
    while server.poll() is None and not _answers(address):
        time.sleep(0.2)
    if server.poll() is None and not stopped:
        ready(address)
    status = server.wait()
    return 128 + stopped[0] if stopped else status


def _require_free(port: int) -> None:
    """Another server there would answer in our place."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise KdeovError(
                f"port {port} cannot be used ({error.strerror}); give another one with --port"
            ) from error


def _answers(address: str) -> bool:
    # a proxy of the environment is for other hosts
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
