"""The error boundary of the command line: one line on standard error and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from kdeov.errors import KdeovError

OWN = ("kdeov", "pipeline")  # a module of these that is missing is a fault of the code
EXTRAS = {
    "fastapi": "serve",
    "prometheus_client": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
}


class CommandGroup(TyperGroup):
    """A group of commands, given to `typer.Typer(cls=...)`.

    A `KdeovError` of a command becomes `kdeov COMMAND: message` and exit status 1, and so does a
    package that the runtime's install lacks. Typer itself
    exits with status 130 after Ctrl-C, and without a trace where a pipe is closed.
    """

    def invoke(self, ctx: Any) -> Any:  # a `Context` of Typer's own copy of Click
        try:
            return super().invoke(ctx)
        except KdeovError as error:
            _complain(ctx, " ".join(str(error).splitlines()))
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in OWN:
                raise
            extra = EXTRAS.get(package, "train")
            _complain(
                ctx, f"needs {error.name}, which is not installed; pip install 'kdeov[{extra}]'"
            )
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # Typer ends quietly
                raise
            what = error.filename or "standard output"
            _discard_output()
            _complain(ctx, f"{what}: cannot be read or written ({error.strerror or error})")
            raise typer.Exit(1) from error


def _discard_output() -> None:
    """Lets what is left in the buffer of standard output go nowhere, so that Python's end does not
    fail once more.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(ctx: Any, message: str) -> None:
    command = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
    typer.echo(f"{command}: {message}", err=True)
