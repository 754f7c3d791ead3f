"""The commands on MLflow's registry: their arguments. What they do is imported when they run."""

from __future__ import annotations

from typing import Annotated

import typer


def publish() -> None:
    """Update the MLflow run of the current student, and make its export the candidate.

    The export becomes a version of the model tracking.model in MLflow's registry, once.
    """
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.report.publish import publish as publish_run

    setup_logging()
    layout = Layout.here()
    publish_run(load_params(layout.params), layout)


def promote(
    model: Annotated[
        str | None,
        typer.Argument(help="Name of the model in the registry; tracking.model by default."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help='Metrics that count, separated by commas: "zeroshot/top1".'),
    ] = None,
) -> None:
    """Make the candidate in MLflow's registry the champion, if it is no worse and works.

    No worse: on each metric at least the lower end of the champion's 95% bootstrap interval.
    """
    from pipeline.report.registry.promote import promote_here

    typer.echo(promote_here(model, metrics))


def add_commands(app: typer.Typer) -> None:
    """Adds `publish` and `promote`."""
    for command in (publish, promote):
        app.command()(command)
