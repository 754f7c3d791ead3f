"""An exported student, images, and the command in their folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.helpers.exported import write_export

Command = Callable[..., Result]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a small student with a box head. For reading alone."""
    folder = tmp_path_factory.mktemp("exported") / "out" / "export"
    write_export(folder, boxes=True)
    return folder


@pytest.fixture
def here(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `out/export`, three images in `photos/`, and a cache of its own."""
    (tmp_path / "here" / "out").mkdir(parents=True)
    (tmp_path / "here" / "out" / "export").symlink_to(exported)
    (tmp_path / "here" / "photos").mkdir()
    for number, color in enumerate(("red", "green", "blue")):
        image = Image.new("RGB", (80, 60), "white")
        ImageDraw.Draw(image).ellipse((5, 5, 35, 35), fill=color)
        image.save(tmp_path / "here" / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.fixture
def kdeov(here: Path, loggers: None) -> Command:
    """Runs the command in that folder."""

    def run(*arguments: object, stdin: bytes | str | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return run
