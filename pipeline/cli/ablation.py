"""The command `kdeov ablation`. What it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ablation(
    name: Annotated[str, typer.Argument(help="A name in ablations.yaml, such as views.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of your data; replaces data/ in the recipe of the ablation."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Run the variants of an ablation as DVC experiments, and write the table into docs/results.md.

    Experiments run in clones of the last commit under work/; those that it has are not run again,
    and one that was killed goes on. MLflow shows them as runs below one.
    """
    from pipeline.ablation.document import write_document
    from pipeline.ablation.gains import outcome_of
    from pipeline.ablation.mlflow_runs import show_in_mlflow
    from pipeline.ablation.question import Ablation
    from pipeline.ablation.table import terminal_table
    from pipeline.ablation.trials import run_ablation
    from pipeline.config.paths import Layout
    from pipeline.console import print_table, setup_logging

    setup_logging()
    chosen, layout = Ablation.named(name, data, change or []), Layout.here()
    trials = run_ablation(chosen, layout)
    outcome = outcome_of(chosen, trials)
    print_table(terminal_table(outcome))
    page = write_document(outcome, layout.root)
    show_in_mlflow(outcome, trials, layout)
    typer.echo(f"written into {page.relative_to(layout.root)}")


def add_commands(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(ablation)
