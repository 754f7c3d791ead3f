"""A server that speaks the S3 protocol, in a process of its own, and ways to lose sight of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

KEY, SECRET = "AKIAKDEOVTESTKDEOV00", "kdeov-secret-that-no-log-shows"
COUNTER = itertools.count()


@dataclass(frozen=True)
class S3Server:
    """A server on 127.0.0.1. What it holds is in its memory.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`.
        pid: Of its process.
    """

    endpoint: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds the server by: variables of the environment alone."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def client(self) -> Any:
        """A client of boto3, which shares no code with `Storage`."""
        import boto3  # only here: tests of GPUs load this file on machines that lack it

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=KEY,
            aws_secret_access_key=SECRET, region_name="us-east-1",
        )  # fmt: skip

    def bucket(self) -> str:
        """A new bucket, as `s3://NAME`."""
        name = f"bucket-{os.getpid()}-{next(COUNTER)}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def objects(self, bucket: str) -> dict[str, int]:
        """Names of all objects of a bucket, with their sizes."""
        pages = self.client().get_paginator("list_objects_v2")
        return {
            entry["Key"]: entry["Size"]
            for page in pages.paginate(Bucket=bucket.removeprefix("s3://"))
            for entry in page.get("Contents", [])
        }

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The server takes connections and does not answer."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[Forwarder]:
        """A second address of the server, which can be closed."""
        with Forwarder(int(self.endpoint.rpartition(":")[2])) as forwarder:
            yield forwarder


@contextlib.contextmanager
def s3_process(**environment: str) -> Iterator[S3Server]:
    """A running server; variables of its environment are moto's options."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log, stderr=subprocess.STDOUT, cwd=tempfile.gettempdir(),
            env={**os.environ, **environment},
        )  # fmt: skip
        try:
            yield S3Server(_endpoint(process, log.fileno()), process.pid)
        finally:
            process.kill()
            process.wait(60)


def _endpoint(process: subprocess.Popen[bytes], log: int, patience_s: float = 60) -> str:
    """The address that a server says it runs on."""
    end = time.monotonic() + patience_s
    said = b""
    while time.monotonic() < end and process.poll() is None:
        said = os.pread(log, 1 << 16, 0)
        if found := re.search(rb"http://127\.0\.0\.1:\d+", said):
            return found[0].decode()
        time.sleep(0.05)
    raise RuntimeError(f"no S3 server: {said.decode()}")


@dataclass
class Forwarder:
    """Carries bytes to a port of this machine, until it is closed and again when it is opened.

    Attributes:
        target: The port.
        carried: Bytes that came back from there.
    """

    target: int
    carried: int = 0
    _open: threading.Event = field(default_factory=threading.Event)
    _stopped: bool = False

    def __enter__(self) -> Forwarder:
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._open.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._open.clear()
        self._thread.join(60)
        self._listener.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Connections are cut, and new ones refused."""
        self._open.clear()
        self._thread.join(60)
        try:
            yield
        finally:
            self._listener = self._listen(self.port)
            self._open.set()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        return listener

    def _run(self) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        near: set[socket.socket] = set()
        while self._open.is_set():
            ready, _, _ = select.select([self._listener, *peers], [], [], 0.05)
            for source in ready:
                if source is self._listener:
                    client, _ = self._listener.accept()
                    server = socket.create_connection(("127.0.0.1", self.target))
                    peers |= {client: server, server: client}
                    near.add(client)
                elif source in peers:
                    self._carry(source, peers, near)
        self._listener.close()
        for end in peers:
            end.close()

    def _carry(
        self,
        source: socket.socket,
        peers: dict[socket.socket, socket.socket],
        near: set[socket.socket],
    ) -> None:
        sink = peers[source]
        try:
            data = source.recv(1 << 16)
            sink.sendall(data)
        except OSError:
            data = b""
        if source not in near:
            self.carried += len(data)
        if not data:
            for end in (source, sink):
                del peers[end]
                near.discard(end)
                end.close()
