"""Applications on a real server of this process, and `kdeov serve` as a process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.serve.server import bound_socket, make_server
from tests.helpers import ROOT
from tests.helpers.waiting import next_line


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an application on a free port of 127.0.0.1."""
    listener, ready = bound_socket("127.0.0.1", 0), threading.Event()
    server = make_server(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(120)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()


@contextlib.contextmanager
def serve_command(*arguments: object, cwd: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`kdeov serve` with its address; it is ended by SIGTERM.

    It has no variable of Ray, as in a user's shell; other tests of this process may have set some.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "serve", *map(str, arguments)],
        cwd=cwd, env=variables | {"PYTHONPATH": str(ROOT)}, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield next_line(process, 600).strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=120)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def drawn_image(seed: int, size: tuple[int, int] = (80, 60), kind: str = "png") -> bytes:
    """A file of an image with patches of random colors."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(content, kind)
    return content.getvalue()
