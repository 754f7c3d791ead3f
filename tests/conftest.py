"""Fixtures of all tests: the checkout, real data and buckets; no variables of distributed runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import KdeovError
from pipeline.runtime.ray_session import set_ray_environment
from tests.helpers import ROOT
from tests.helpers.s3_server import S3Server, s3_process

set_ray_environment()  # before any test imports Ray

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)  # a stale RANK would silently change who reads what


EXPORTS = {"exported", "tower", "table", "yolo", "timm", "fixed", "export"}
"""Fixtures that export a student."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, genuine CLIP outputs and YOLO weights, beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def complains() -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """`with complains("a", "b") as caught:` expects a `KdeovError` of one line with these words."""

    @contextlib.contextmanager
    def expect(*words: object) -> Iterator[Any]:
        with pytest.raises(KdeovError) as caught:
            yield caught
        text = str(caught.value)
        assert "\n" not in text
        for word in words:
            assert str(word) in text

    return expect


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for all tests; each makes buckets of its own."""
    with s3_process() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, `s3://NAME`, that this process and its children may write."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that use Ray's cluster: no other tests should run on it. Marks those that need an
    exported student as slow: the first of a session makes it, in 20 s.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "cluster" in names:
            item.add_marker("cluster")
        if names & EXPORTS:
            item.add_marker("slow")
