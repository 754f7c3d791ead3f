"""The error boundary of the command line."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from kdeov.errors import ConfigError
from pipeline.cli.errors import CommandGroup

app = typer.Typer(name="kdeov", cls=CommandGroup)
inner = typer.Typer(cls=CommandGroup)
app.add_typer(inner, name="inner")


@app.command()
def fail() -> None:
    raise ConfigError("one\ntwo")


@app.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@app.command()
def broken_pipe() -> None:
    raise BrokenPipeError(32, "Broken pipe")


@inner.command()
def deep() -> None:
    raise ConfigError("deep down")


@inner.command()
def other() -> None:
    """A second command, so that the first keeps its name."""


def test_an_error_of_a_command_is_one_line_and_status_1() -> None:
    result = CliRunner().invoke(app, ["fail"])
    assert (result.exit_code, result.stderr) == (1, "kdeov fail: one two\n")


def test_an_error_of_a_nested_command_is_reported_once_with_its_whole_name() -> None:
    result = CliRunner().invoke(app, ["inner", "deep"])
    assert (result.exit_code, result.stderr) == (1, "kdeov inner deep: deep down\n")


def test_ctrl_c_ends_with_status_130() -> None:
    assert CliRunner().invoke(app, ["interrupted"]).exit_code == 130


def test_a_closed_pipe_ends_a_command_without_a_trace() -> None:
    result = CliRunner().invoke(app, ["broken-pipe"])
    assert isinstance(result.exception, SystemExit) and result.output == ""
