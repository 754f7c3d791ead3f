"""Hosts, tokens, sizes, times and room: refused before anything is computed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.serve.app import create_app
from pipeline.serve.settings import Settings
from tests.helpers.serving import drawn_image, serving

TOKEN = "0123456789abcdef"
CAPACITY, MAX_BYTES, TIMEOUT_S = 2, 200_000, 4.0


@pytest.fixture(scope="module")
def strict(export: Path) -> Iterator[str]:
    settings = Settings(
        token=TOKEN, capacity=CAPACITY, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S,
        hosts=("127.0.0.1", "localhost"),
    )  # fmt: skip
    with serving(create_app(str(export), settings=settings)) as address:
        yield address


def post(address: str, **headers: str) -> httpx.Response:
    content = drawn_image(0)
    shown = {"authorization": f"Bearer {TOKEN}", **headers}
    return httpx.post(
        f"{address}/embed", files={"image": content}, headers=shown, timeout=60, trust_env=False
    )


def test_a_token_is_needed_for_all_but_the_page_and_health(strict: str) -> None:
    assert post(strict).status_code == 200
    for wrong in ("Bearer 0123456789abcdeg", "Bearer", f"Basic {TOKEN}", ""):
        answer = post(strict, authorization=wrong)
        assert answer.status_code == 401 and "Bearer" in answer.headers["www-authenticate"]
    with httpx.Client(base_url=strict, trust_env=False) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/").status_code == client.get("/health").status_code == 200


def test_another_host_name_is_refused(strict: str) -> None:
    answer = post(strict, host="evil.example")
    assert answer.status_code == 421 and "evil.example" in answer.json()["detail"]
    assert post(strict, host="localhost:1234").status_code == 200


def test_an_upload_that_is_too_large_is_refused_before_it_ends(strict: str) -> None:
    host, port = strict.removeprefix("http://").split(":")
    head = (
        f"POST /embed HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n"
        "content-type: multipart/form-data; boundary=x\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}content-length: {10**9}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        part = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        for _ in range(MAX_BYTES // (1 << 16) + 1):
            connection.sendall(block)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_an_upload_that_never_ends_is_given_up(strict: str) -> None:
    host, port = strict.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            f"POST /embed HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n".encode()
            + b"content-type: multipart/form-data; boundary=x\r\ncontent-length: 999\r\n\r\n--x"
        )
        start = time.monotonic()
        assert connection.recv(100).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - start < 10 * TIMEOUT_S
    assert post(strict).status_code == 200


def test_requests_beyond_the_room_are_told_to_come_back(strict: str) -> None:
    content = drawn_image(7, (900, 700))

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(strict + "/embed", files={"image": content})

    async def ask_many() -> list[httpx.Response]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(timeout=120, headers=headers, trust_env=False) as client:
            return await asyncio.gather(*(ask(client) for _ in range(40)))

    answers = asyncio.run(ask_many())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert post(strict).status_code == 200
