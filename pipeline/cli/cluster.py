"""`kdeov cluster`, and the bodies of `kdeov submit`, `status` and `logs`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.errors import CommandGroup

if TYPE_CHECKING:
    from pipeline.cluster.records import Record

app = typer.Typer(cls=CommandGroup, no_args_is_help=True)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, help="Number of node processes.")] = 2,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of each node; default: all CPUs, shared evenly.")
    ] = None,
) -> None:
    """Start a Ray cluster on this machine."""
    import os

    from pipeline.cluster.local import start_cluster
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging

    setup_logging()
    each = cpus or max(1, (os.cpu_count() or 1) // nodes)
    layout = Layout.here()
    cluster = start_cluster(layout.local_cluster, nodes, each)
    typer.echo(f"{nodes} nodes with {each} CPUs are up; in params.yaml:\n")
    typer.echo(f"data:\n  storage: {layout.root / 'work' / 'storage'}\n")
    typer.echo(f"cluster:\n  mode: cluster\n  address: {cluster.address}")


@app.command()
def down() -> None:
    """Stop the cluster that `kdeov cluster up` started, and nothing else."""
    from pipeline.cluster.local import stop_cluster
    from pipeline.config.paths import Layout

    count = stop_cluster(Layout.here().local_cluster)
    typer.echo(f"{count} nodes ended" if count else "no nodes of this checkout are up")


@app.command()
def example(name: Annotated[str, typer.Argument(help="aws or kuberay.")]) -> None:
    """Print a cluster file to start from."""
    from pipeline.cluster.examples import example as text_of

    typer.echo(text_of(name), nl=False)


def submit(stage: str, detach: bool) -> None:
    """Runs a stage as a job; see `run_on_cluster`.

    Raises:
        KdeovError: As `run_on_cluster` does, or the stage does not run on clusters.
    """
    from kdeov.errors import ConfigError
    from pipeline.cluster.submit import Submission, run_on_cluster
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.runtime.job import STAGES

    layout = Layout.here()
    params = load_params(layout.params)
    if stage not in STAGES:
        raise ConfigError(f"{stage!r} does not run on a cluster; these do: {', '.join(STAGES)}")
    if params.cluster.mode != "cluster":
        raise ConfigError(
            f"cluster.mode is {params.cluster.mode}; set it to cluster, and give cluster.address"
        )
    if not detach:
        run_on_cluster(stage, params, layout)
        return
    submission = Submission.of(stage, params, layout)
    if not submission.done:
        submission.start()
    typer.echo(
        f"{submission.id}; `kdeov logs {stage} --follow` shows its log, and `dvc repro` "
        "fetches its outputs when it has ended"
    )


def status() -> None:
    """Prints the jobs of this checkout."""
    from pipeline.cluster.records import Record
    from pipeline.config.paths import Layout

    states = _states(records := Record.all(Layout.here()))
    rows = [("STAGE", "JOB", "STATE", "SINCE", "CLUSTER")]
    for record in records:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.since))
        rows.append((record.stage, record.id, states[record.id], since, record.address))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if records else ():  # wider than a terminal perhaps, but ids stay whole
        typer.echo("  ".join(map(str.ljust, row, widths)).rstrip())
    if not records:
        typer.echo("no job was submitted from here")


def _states(records: list[Record]) -> dict[str, str]:
    """State of each job, by its id; a cluster that does not answer is not asked again."""
    from kdeov.errors import KdeovError
    from pipeline.cluster.client import Dashboard

    clusters: dict[str, Dashboard | str] = {}
    states = {}
    for record in records:
        try:
            if record.address not in clusters:
                clusters[record.address] = Dashboard(record.address)
            cluster = clusters[record.address]
            info = cluster.info(record.id) if isinstance(cluster, Dashboard) else None
            unknown = cluster if isinstance(cluster, str) else "unknown to the cluster"
            states[record.id] = info.status.value.lower() if info else unknown
        except KdeovError as error:
            clusters[record.address] = states[record.id] = str(error).partition(";")[0]
    return states


def logs(stage: str, follow: bool) -> None:
    """Prints the log of the newest job of a stage.

    Raises:
        ConfigError: No job of the stage was submitted, or its cluster has forgotten it.
        StorageError: Its cluster does not answer.
    """
    from kdeov.errors import ConfigError
    from pipeline.cluster.client import Dashboard
    from pipeline.cluster.records import Record
    from pipeline.config.paths import Layout

    found = [record for record in Record.all(Layout.here()) if record.stage == stage]
    if not found:
        raise ConfigError(f"no job of {stage} was submitted from here; `kdeov status` lists all")
    dashboard = Dashboard(found[-1].address)
    if dashboard.info(found[-1].id) is None:
        raise ConfigError(f"{found[-1].id}: unknown to the cluster at {dashboard.address}")
    if follow:
        dashboard.follow(found[-1].id, from_start=True)
    else:
        typer.echo(dashboard.log(found[-1].id), nl=False)
