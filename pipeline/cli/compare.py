"""The command `kdeov compare`. What it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "`workspace`, a git revision, a DVC experiment, or an MLflow run (its id or name)."


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help=NAME)],
    after: Annotated[str, typer.Argument(metavar="B", help="The same; differences are B minus A.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write an HTML page of one file.")
    ] = None,
) -> None:
    """Compare two runs: params that differ, metrics with paired intervals, curves."""
    from pipeline.compare.comparison import compare as compare_runs
    from pipeline.compare.contents import read_run
    from pipeline.compare.find import find_run
    from pipeline.compare.terminal import print_comparison
    from pipeline.config.paths import Layout

    layout = Layout.here()
    runs = [find_run(name, layout) for name in (before, after)]
    comparison = compare_runs(*map(read_run, runs))
    print_comparison(comparison)
    if output is not None:
        from pipeline.compare.page import write_page

        write_page(comparison, output)
        typer.echo(f"written into {output}")


def add_commands(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(compare)
