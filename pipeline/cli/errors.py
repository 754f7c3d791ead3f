"""Command-line errors: one line on standard error and an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turns a person's mistake into one line and exit status 1."""
    from kdeov.errors import KdeovError

    try:
        yield
    except KdeovError as error:
        raise typer.Exit(_complain(command, str(error))) from error


def _complain(command: str, text: str) -> int:
    typer.echo(f"{command}: {text}", err=True)
    return 1
