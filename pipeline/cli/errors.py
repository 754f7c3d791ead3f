"""The error boundary of the command line: one line on standard error and an exit status."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from kdeov.errors import KdeovError


class CommandGroup(TyperGroup):
    """A group of commands, given to `typer.Typer(cls=...)`.

    A `KdeovError` of a command becomes `kdeov COMMAND: message` and exit status 1. Typer itself
    exits with status 130 after Ctrl-C, and without a trace where a pipe is closed.
    """

    def invoke(self, ctx: Any) -> Any:  # a `Context` of Typer's own copy of Click
        try:
            return super().invoke(ctx)
        except KdeovError as error:
            command = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
            typer.echo(f"{command}: {' '.join(str(error).splitlines())}", err=True)
            raise typer.Exit(1) from error
