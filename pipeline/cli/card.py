"""The command that writes the model card: its arguments. What it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def card(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The Markdown file; README.md beside the model for a hub."
        ),
    ] = Path("model-card.md"),
) -> None:
    """Write the model card of the student, with the metadata that model hubs read.

    Replaces a card that this command wrote, and no other file.
    """
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.report.facts.data import DataFacts
    from pipeline.report.facts.model_card import model_card, write_card
    from pipeline.report.facts.provenance import Provenance
    from pipeline.report.results import Results

    layout = Layout.here()
    params = load_params(layout.params)
    results = Results.read(params, layout)
    facts = DataFacts.read(layout, params.data.storage)
    text = model_card(results, Provenance.read(results, layout), facts)
    write_card(output, text)
    typer.echo(f"wrote {output}: {results.run.name}, with the licenses of its parts")


def add_commands(app: typer.Typer) -> None:
    """Adds `card`."""
    app.command()(card)
