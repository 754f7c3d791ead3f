"""A small student with a box head, images with their index, and a server of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app as kdeov
from pipeline.serve.app import create_app
from tests.helpers.exported import write_export
from tests.helpers.serving import drawn_image, serving

IMAGES = 12


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a box head and a background. For reading alone."""
    folder = tmp_path_factory.mktemp("served") / "export"
    write_export(folder, boxes=True)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number in range(IMAGES):
        place = folder / ("sub" if number % 2 else ".") / f"{number}.png"
        place.write_bytes(drawn_image(number))
    return folder


@pytest.fixture(scope="session")
def index(export: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the images."""
    folder = tmp_path_factory.mktemp("index") / "index"
    arguments = ["index", str(photos), "--model", str(export), "-o", str(folder)]
    assert CliRunner().invoke(kdeov, arguments).exit_code == 0
    return folder


@pytest.fixture(scope="session")
def address(export: Path, index: Path) -> Iterator[str]:
    """A server of both."""
    with serving(create_app(str(export), index)) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as found:
        yield found
