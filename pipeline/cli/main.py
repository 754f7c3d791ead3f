"""The `kdeov` command. Imports wait until a command needs them, so that `kdeov --help` answers at
once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.bench import app as bench
from pipeline.cli.cluster import app as cluster
from pipeline.cli.errors import _complain, one_line_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(
    bench, name="bench", help="Measures this machine, and compares it with what is promised."
)
app.add_typer(cluster, name="cluster", help="A Ray cluster on this machine, to try what one does.")


@app.callback()
def main() -> None:
    """KDEOV distils CLIP into models small enough for a phone."""


@app.command()
def summary() -> None:
    """Shows teacher against student, and where to look further."""
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import stdout
    from pipeline.report.publish import run_address
    from pipeline.report.results import Results
    from pipeline.report.summary import print_summary
    from pipeline.tracking.target import TrackingTarget

    with one_line_errors("summary"):
        layout = Layout.here()
        params = load_params(layout.params)
        results = Results.read(params, layout)
        target = TrackingTarget.of(params.tracking, layout)
        print_summary(results)
        made = layout.report.is_file()
        lines = [f"Report:  {layout.report if made else 'not there: run `dvc repro report`'}"]
        if not target.is_server:
            lines.append(f"MLflow:  {Path(sys.argv[0]).absolute()} ui")
        address = run_address(layout, results.run.fingerprint)
        lines.append(
            f"         {address}" if address else "         not published yet: run `kdeov publish`"
        )
        stdout.print("\n".join(lines), soft_wrap=True, highlight=False)


@app.command()
def verify(
    entries: Annotated[int, typer.Option(min=0, help="Of each split, embedded again.")] = 256,
) -> None:
    """Proves the teacher cache: all bytes and vectors, random views against the live teacher."""
    from pipeline.artifacts.dataset import SPLITS
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.data.paired_shards import open_cache
    from pipeline.data.verify import verify_cache
    from pipeline.runtime.device import pick_device
    from pipeline.teachers.load import load_teacher

    setup_logging()
    with one_line_errors("verify"):
        layout = Layout.here()
        params = load_params(layout.params)
        teacher = load_teacher(layout.teacher, pick_device(params.cluster.use_gpu))
        for split in SPLITS:
            verify_cache(open_cache(params, layout, split), teacher, entries, whole=True)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leaves out how fast data come.")] = False,
) -> None:
    """Looks for what would go wrong in a long run: one line a check, with the cure.

    The exit status is 1 where something would.
    """
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.doctor.check import print_checks
    from pipeline.doctor.examine import examine

    setup_logging()
    with one_line_errors("doctor"):
        layout = Layout.here()
        if not print_checks(examine(load_params(layout.params), layout, quick)):
            raise typer.Exit(1)


@app.command()
def study(name: Annotated[str, typer.Argument(help="Such as views.")]) -> None:
    """Answers a question of `ablations.yaml` by DVC experiments, and prints the table."""
    from pipeline.cli.ablation import Study, run_study, study_table
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging, stdout

    setup_logging()
    with one_line_errors("study"):
        question = Study.named(name)
        stdout.print(study_table(question, run_study(question, Layout.here())))


@app.command()
def recipes() -> None:
    """Lists complete params files for known data sets."""
    from rich.table import Table

    from pipeline.config.recipe import Recipe
    from pipeline.console import stdout

    table = Table("recipe", "what it is", "reads", title="kdeov use NAME puts one in place")
    for recipe in Recipe.all():
        table.add_row(recipe.name, recipe.summary, "\n".join(recipe.needs.values()))
    stdout.print(table)


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="See `kdeov recipes`.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of your data, for ../shared/data in recipes.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, as often as needed.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace params.yaml with its changes.")] = False,
) -> None:
    """Puts a recipe in the place of params.yaml; `dvc repro` then follows it."""
    from pipeline.config.paths import Layout
    from pipeline.config.recipe import Recipe, use_recipe

    with one_line_errors("use"):
        layout = Layout.here()
        if not (layout.root / "dvc.yaml").is_file():
            raise typer.Exit(_complain("use", "no dvc.yaml here; run in a checkout of KDEOV"))
        recipe = Recipe.named(name).with_changes(data, change or [])
        absent = use_recipe(recipe, layout.params, force)
        typer.echo(f"params.yaml is now {name}: {recipe.summary}")
        for key, place in absent.items():
            typer.echo(f"{place} is not here: put it there, or give --set {key}=PATH")
        if not absent:
            typer.echo("run `dvc repro`")


@app.command()
def publish() -> None:
    """Brings the MLflow run up to date with the files of the current student."""
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.report.publish import publish as publish_run

    setup_logging()
    with one_line_errors("publish"):
        layout = Layout.here()
        publish_run(load_params(layout.params), layout)


@app.command()
def ui(port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 5000) -> None:
    """Serves the MLflow page of this checkout, on this machine alone."""
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.report.publish import VIEW
    from pipeline.tracking.server import serve
    from pipeline.tracking.target import TrackingTarget

    with one_line_errors("ui"):
        layout = Layout.here()
        target = TrackingTarget.of(load_params(layout.params).tracking, layout)
        if target.is_server:
            address = target.address.rstrip("/")
            typer.echo(f"MLflow is served already: {address}/#/experiments?{VIEW}")
            return
        if target.is_file and not Path(target.uri.removeprefix("sqlite:///")).is_file():
            raise typer.Exit(
                _complain("ui", "nothing was tracked yet; run `dvc repro` or `kdeov publish`")
            )

        def tell(address: str) -> None:
            typer.echo(f"{address}/#/experiments?{VIEW}")
            sys.stdout.flush()

        raise typer.Exit(serve(target, port, tell))


@app.command()
def submit(
    stage: Annotated[str, typer.Argument(help="Such as distill.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """Runs a stage as a job of the cluster in params.yaml, as `dvc repro` would."""
    from pipeline.cli import cluster as commands
    from pipeline.console import setup_logging

    setup_logging()
    with one_line_errors("submit"):
        try:
            commands.submit(stage, detach)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@app.command()
def status() -> None:
    """Lists the jobs that were submitted from this checkout, and how they are."""
    from pipeline.cli import cluster as commands

    with one_line_errors("status"):
        commands.status()


@app.command()
def logs(
    stage: Annotated[str, typer.Argument(help="Such as distill.")],
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends.")] = False,
) -> None:
    """Shows the log of the newest job of a stage."""
    from pipeline.cli import cluster as commands
    from pipeline.console import setup_logging

    setup_logging()
    with one_line_errors("logs"):
        commands.logs(stage, follow)


@app.command()
def scaling(
    gpus: Annotated[
        list[int] | None, typer.Option(help="How many; as often as needed, to compare.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="input=number, as often as needed.")
    ] = None,
) -> None:
    """What a billion images ask for: storage, hours, network and dollars, from stated inputs."""
    from rich.markdown import Markdown

    from pipeline.bench.scaling.inputs import Inputs
    from pipeline.bench.scaling.page import GPUS, scaling_page
    from pipeline.console import stdout

    with one_line_errors("scaling"):
        text = scaling_page(Inputs().changed(change or []), gpus or GPUS)
        if stdout.is_terminal:
            stdout.print(Markdown(text))
        else:
            typer.echo(text)
