"""The `kdeov` command: what it shows, and its errors in one line."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from tests.helpers.mlflow_databases import (
    WithDatabase,
    deleted,
    half_made,
    newer,
    no_database,
    older,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loggers")]  # the first test trains


@pytest.fixture
def checkout(
    trained: tuple[Layout, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """The folder one is in: a copy of the trained checkout, with its params."""
    source, params = trained
    shutil.copytree(source.root, tmp_path / "checkout", symlinks=True)
    layout = Layout(tmp_path / "checkout")
    layout.params.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    monkeypatch.chdir(layout.root)
    return layout


def kdeov(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_summary_shows_teacher_against_student_and_where_to_look(checkout: Layout) -> None:
    result = kdeov("summary")
    assert result.exit_code == 0
    for words in ("zero-shot top-1", "text to image, R@5", "ViT-B/32", "the student is"):
        assert words in result.output
    assert "run `dvc repro report`" in result.output  # no page was made here
    assert "run `kdeov publish`" in result.output


@pytest.mark.parametrize("command", ["summary", "publish", "promote", "verify", "ui"])
def test_a_command_outside_of_a_checkout_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kdeov(command)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"kdeov {command}: ") and "run in the folder of params.yaml" in line


@pytest.mark.parametrize("command", ["summary", "publish", "verify"])
def test_a_command_before_the_pipeline_has_run_names_the_stage_to_run(
    checkout: Layout, command: str
) -> None:
    shutil.rmtree(checkout.root / "out")
    result = kdeov(command)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"kdeov {command}: ") and "run `dvc repro" in line


def test_verify_passes_an_honest_cache_and_names_a_damaged_shard(checkout: Layout) -> None:
    assert kdeov("verify", "--entries", "8").exit_code == 0
    path = checkout.embeddings / "test" / "000001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    result = kdeov("verify")
    assert result.exit_code == 1
    assert f"kdeov verify: {path}: " in result.stderr


@pytest.mark.parametrize("entries", ["-1", "many"])
def test_verify_refuses_a_senseless_number(checkout: Layout, entries: str) -> None:
    result = kdeov("verify", "--entries", entries)
    assert result.exit_code == 2 and "--entries" in result.stderr


def test_the_page_of_a_server_is_named_rather_than_served_again(
    checkout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/")
    result = kdeov("ui")
    assert result.exit_code == 0
    assert "https://mlflow.example.org/#/experiments" in result.output


def test_nothing_is_served_before_anything_was_tracked(checkout: Layout) -> None:
    shutil.rmtree(checkout.root / "work")
    result = kdeov("ui")
    assert result.exit_code == 1
    assert result.stderr.startswith("kdeov ui: ") and "run `dvc repro`" in result.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (older, "mlflow db upgrade"),
        (newer, "install that version"),
        (half_made, "delete "),
        (no_database, "move "),
        (deleted, "mlflow experiments restore"),
    ],
)
def test_a_database_that_cannot_be_served_is_named_with_its_cure_in_one_line(
    checkout: Layout, with_database: WithDatabase, damage: Callable[[Path], None], words: str
) -> None:
    with_database(checkout.root)
    file = checkout.tracking_database
    damage(file)
    result = kdeov("ui")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and line.startswith("kdeov ui: ")
    assert words in line and str(file) in line


def test_a_port_that_is_taken_is_named_in_one_line(checkout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = kdeov("ui", "--port", str(port))
    assert result.exit_code == 1
    assert result.stderr.startswith("kdeov ui: ") and str(port) in result.stderr
    assert "--port" in result.stderr
