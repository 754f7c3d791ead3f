"""`kdeov serve` as a command: its address, its end, and what it refuses."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.helpers.serving import drawn_image, serve_command


def refused(*arguments: object) -> str:
    """The one line of a command that fails."""
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_answers_and_ends_with_a_signal(
    export: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serve_command("--model", export, "--port", 0, cwd=tmp_path) as (address, process):
        assert address.startswith("http://127.0.0.1:")
        answer = httpx.post(
            f"{address}/embed", files={"image": drawn_image(0)}, timeout=120, trust_env=False
        )
        assert answer.status_code == 200
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors and output == ""
    assert process.returncode in (0, 130, -number)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named(export: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused("--model", export, "--port", port)
    assert f"127.0.0.1:{port}" in message and "--port" in message


@pytest.mark.parametrize("content", [None, "", "short\n", "with ünïcode and so on\n"])
def test_a_token_that_is_none_is_refused(export: Path, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert str(path) in refused("--model", export, "--token-file", path)


def test_a_model_and_an_index_that_cannot_be_served_are_named(
    export: Path, index: Path, tmp_path: Path
) -> None:
    assert "none" in refused("--model", tmp_path / "none", "--port", 0)
    assert "none" in refused("--model", export, "--index", tmp_path / "none", "--port", 0)
    assert "--replicas" in refused("--model", export, "--ray", "--replicas", "3-1", "--port", 0)
