"""The commands that run a student on images, and the one that exports it."""

from __future__ import annotations

import typer

from pipeline.cli.inference.classify import classify
from pipeline.cli.inference.embed import embed
from pipeline.cli.inference.export import export
from pipeline.cli.inference.locate import locate


def add_commands(app: typer.Typer) -> None:
    """Adds `classify`, `locate`, `embed` and `export`."""
    for command in (classify, locate, embed, export):
        app.command()(command)
