"""An address that is no cluster of this version is answered in one line; a log is written once."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pipeline.cluster.client import Dashboard, LogTail

Start = Callable[[int, bytes], str]


@pytest.fixture
def server() -> Iterator[Start]:
    """Starts a server that gives one answer to everything; returns its address."""
    servers: list[HTTPServer] = []

    def start(status: int, answer: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Keeps the test's output clean."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_an_address_without_a_server_is_named(complains: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with complains(address, "cluster.address"):
            Dashboard(address)


@pytest.mark.parametrize("answer", [(404, b"no such page"), (200, b"<html>"), (200, b"[1]")])
def test_another_server_is_named(server: Start, complains: Any, answer: tuple[int, bytes]) -> None:
    with complains("cluster.address"):
        Dashboard(server(*answer))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1:8265", "auto"])
def test_an_address_of_another_kind_is_named(complains: Any, address: str) -> None:
    with complains(address, "http://HOST:8265"):
        Dashboard(address)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, b"Unauthorized: Missing authentication token"),
        (403, b"Forbidden: Invalid authentication token"),
    ],
)
def test_a_missing_or_wrong_token_is_answered_with_where_to_put_one(
    server: Start, complains: Any, status: int, answer: bytes
) -> None:
    with complains("~/.ray/auth_token", "RAY_AUTH_TOKEN_PATH"):
        Dashboard(server(status, answer))


def test_another_version_of_ray_is_named(server: Start, complains: Any) -> None:
    import ray

    answer = {"version": "4", "ray_version": "2.9.0", "ray_commit": "", "session_name": ""}
    with complains(ray.__version__, "2.9.0", "requirements.lock"):
        Dashboard(server(200, json.dumps(answer).encode()))


def test_a_log_is_written_once_however_often_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    tail = LogTail(0)
    for sent in (["one\n", "two\n"], ["one\ntw", "o\nthree\n"], ["one\n"], ["one\ntwo\nthree\n4"]):
        tail.begin()
        for text in sent:
            tail.write(text)
    assert capsys.readouterr().err == "one\ntwo\nthree\n4"
