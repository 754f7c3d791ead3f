"""`kdeov bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def data(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Where the figures go too.")
    ] = None,
) -> None:
    """Embedding, reading, planning and training on generated images, on the CPU; takes minutes.

    The exit status is 1 where a figure misses its bar.
    """
    from pipeline.bench.data import suite as measured
    from pipeline.bench.figures import print_figures
    from pipeline.cli.errors import one_line_errors
    from pipeline.console import setup_logging

    setup_logging()
    with one_line_errors("bench data"):
        figures = measured.data_figures(measured.SIZES)
        if not print_figures("Data, on this machine's CPU", figures, json_file):
            raise typer.Exit(1)


@app.command()
def cluster(
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Where the figures go too.")
    ] = None,
) -> None:
    """Ray against torchrun, two ranks against one, a killed worker, the plan of a billion images.

    Takes minutes, on the CPU. The exit status is 1 where a figure misses its bar.
    """
    from pipeline.bench.cluster import suite as measured
    from pipeline.bench.figures import print_figures
    from pipeline.cli.errors import one_line_errors
    from pipeline.console import setup_logging

    setup_logging()
    with one_line_errors("bench cluster"):
        figures = measured.cluster_figures(measured.SIZES)
        if not print_figures("A cluster, on this machine's CPU", figures, json_file):
            raise typer.Exit(1)
