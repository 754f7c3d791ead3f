"""The `kdeov` command. Each command imports what it needs, so that `kdeov --help` stays fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.ablation import add_commands as add_ablation
from pipeline.cli.bench import app as bench
from pipeline.cli.card import add_commands as add_card
from pipeline.cli.cluster import app as cluster
from pipeline.cli.compare import add_commands as add_compare
from pipeline.cli.errors import CommandGroup
from pipeline.cli.jobs import add_commands as add_jobs
from pipeline.cli.registry import add_commands as add_registry
from pipeline.cli.search import add_commands as add_search
from pipeline.cli.serve import add_commands as add_serve
from pipeline.cli.student import add_commands

FIGURE_MARK = b"% of the teacher's"  # in every figure of `kdeov figure`, older ones too

app = typer.Typer(
    name="kdeov",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
add_commands(app)
add_search(app)
add_serve(app)
add_registry(app)
add_ablation(app)
add_card(app)
add_compare(app)
add_jobs(app)
app.add_typer(bench, name="bench", help="Measure this machine against the promised figures.")
app.add_typer(cluster, name="cluster", help="Run a small Ray cluster on this machine.")


@app.callback()
def main() -> None:
    """KDEOV distils CLIP into models small enough for a phone."""
    from pipeline.console import allow_every_character

    allow_every_character()


@app.command()
def summary() -> None:
    """Show the metrics of teacher and student, and where the report and MLflow are."""
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import stdout
    from pipeline.report.publish import run_address
    from pipeline.report.results import Results
    from pipeline.report.summary import print_summary
    from pipeline.tracking.target import TrackingTarget

    layout = Layout.here()
    params = load_params(layout.params)
    results = Results.read(params, layout)
    target = TrackingTarget.of(params.tracking, layout)
    print_summary(results)
    made = layout.report.is_file()
    lines = [f"Report:  {layout.report if made else 'missing: run `dvc repro report`'}"]
    if not target.is_server:
        lines.append(f"MLflow:  {Path(sys.argv[0]).absolute()} ui")
    address = run_address(layout, results.run.fingerprint)
    lines.append(
        f"         {address}" if address else "         not published yet: run `kdeov publish`"
    )
    stdout.print("\n".join(lines), soft_wrap=True, highlight=False)


@app.command()
def verify(
    entries: Annotated[int, typer.Option(min=0, help="Views of each split to embed again.")] = 256,
) -> None:
    """Check the teacher cache: all bytes and embeddings, and random views against the teacher."""
    from pipeline.artifacts.dataset import SPLITS
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.data.paired_shards import open_cache
    from pipeline.data.verify import verify_cache
    from pipeline.runtime.device import pick_device
    from pipeline.teachers.load import load_teacher

    setup_logging()
    layout = Layout.here()
    params = load_params(layout.params)
    teacher = load_teacher(layout.teacher, pick_device(params.cluster.use_gpu))
    for split in SPLITS:
        verify_cache(open_cache(params, layout, split), teacher, entries, whole=True)


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the measurement of data loading.")
    ] = False,
) -> None:
    """Check configuration, data and machines before a long run.

    Prints one line a check, with what to do. The exit status is 1 if a check finds an error.
    """
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.doctor.check import print_checks
    from pipeline.doctor.examine import examine

    setup_logging()
    layout = Layout.here()
    if not print_checks(examine(load_params(layout.params), layout, quick)):
        raise typer.Exit(1)


@app.command()
def params() -> None:
    """Print the reference of params.yaml as Markdown."""
    from pipeline.config.reference import params_markdown

    typer.echo(params_markdown(), nl=False)


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show which data this recipe needs, and where it is from.")
    ] = None,
) -> None:
    """List the params files for known data sets, or describe one."""
    from pipeline.config.recipe import Recipe

    if name is not None:
        recipe = Recipe.named(name)
        typer.echo(f"{recipe.about}\n\n`kdeov use {name}` writes params.yaml")
        return
    for recipe in Recipe.all():
        typer.echo(f"{recipe.name}\n  {recipe.summary}")
        for place in recipe.needs.values():
            typer.echo(f"  reads {place}")
    typer.echo("\n`kdeov recipes NAME` says where data is from, `kdeov use NAME` takes one")


@app.command()
def figure(
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG file to write.")] = Path(
        "docs/results.svg"
    ),
) -> None:
    """Draw the README's figure from metrics/.

    Replaces a figure that this command drew, and no other file.
    """
    from kdeov.errors import ConfigError
    from pipeline.config.paths import Layout
    from pipeline.report.results_figure import results_figure
    from pipeline.storage.files import writing

    if output.exists() and not (output.is_file() and FIGURE_MARK in output.read_bytes()):
        raise ConfigError(f"{output} exists and is no figure of `kdeov figure`; give another -o")
    with writing(output) as file:
        file.write(results_figure(Layout.here().metrics))


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="See `kdeov recipes`.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of your data; replaces data/ in the recipe."),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Replace params.yaml even if it holds uncommitted changes.")
    ] = False,
) -> None:
    """Copy a recipe to params.yaml, for `dvc repro` to run."""
    from kdeov.errors import ConfigError
    from pipeline.config.paths import Layout
    from pipeline.config.recipe import Recipe, use_recipe

    layout = Layout.here()
    if not (layout.root / "dvc.yaml").is_file():
        raise ConfigError("no dvc.yaml here; run in a checkout of KDEOV")
    recipe = Recipe.named(name).with_changes(data, change or [])
    absent = use_recipe(recipe, layout.params, force)
    typer.echo(f"params.yaml is now {name}: {recipe.summary}")
    for key, place in absent.items():
        typer.echo(f"{place} is missing: get it, or give --set {key}=PATH")
    if absent:
        typer.echo(f"`kdeov recipes {name}` says where they are from")
    else:
        typer.echo("run `dvc repro`")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Serve the MLflow page of this checkout on 127.0.0.1."""
    from kdeov.errors import DataError, StorageError
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.report.headline import choose_columns
    from pipeline.tracking.server import serve
    from pipeline.tracking.target import TrackingTarget
    from pipeline.tracking.view import runs_page

    layout = Layout.here()
    target = TrackingTarget.of(load_params(layout.params).tracking, layout)
    if not target.is_server and not target.prepare():
        raise DataError("MLflow has no run yet; run `dvc repro` or `kdeov publish`")
    try:
        experiment = choose_columns(target)
    except StorageError as error:
        if not target.is_server:
            raise
        typer.echo(f"kdeov ui: {error}", err=True)
        experiment = None
    if target.is_server:
        address = target.address.rstrip("/")
        typer.echo(f"MLflow is already served: {runs_page(address, experiment)}")
        return

    def print_address(address: str) -> None:
        typer.echo(runs_page(address, experiment))
        sys.stdout.flush()

    raise typer.Exit(serve(target, port, print_address))


@app.command()
def scaling(
    gpus: Annotated[list[int] | None, typer.Option(help="Number of GPUs; may be repeated.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="input=number; may be repeated.")
    ] = None,
) -> None:
    """Estimate storage, hours, network and cost of training on a billion images."""
    from rich.markdown import Markdown

    from pipeline.bench.scaling.inputs import Inputs
    from pipeline.bench.scaling.page import GPUS, scaling_page
    from pipeline.console import stdout

    text = scaling_page(Inputs().changed(change or []), gpus or GPUS)
    if stdout.is_terminal:
        stdout.print(Markdown(text))
    else:
        typer.echo(text)


if __name__ == "__main__":
    app()
