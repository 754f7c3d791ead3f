"""Commands on the jobs of clusters: `kdeov submit`, `status`, `resume` and `logs`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.cluster.records import Record


def add_commands(app: typer.Typer) -> None:
    """Adds the commands to `kdeov`."""
    for command in (submit, status, resume, logs):
        app.command()(command)


def submit(
    stage: Annotated[str, typer.Argument(help="A stage that runs on a cluster, such as distill.")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once the job is submitted.")
    ] = False,
) -> None:
    """Run a stage as a job on the cluster in params.yaml, as `dvc repro` does."""
    from kdeov.errors import ConfigError
    from pipeline.cluster.submit import Submission, run_on_cluster
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging
    from pipeline.runtime.job import STAGES

    setup_logging()
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
    """List the jobs that were submitted from this checkout, with their state."""
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
            unknown = cluster if isinstance(cluster, str) else _state_without_cluster(record)
            states[record.id] = info.status.value.lower() if info else unknown
        except KdeovError as error:
            clusters[record.address] = states[record.id] = str(error).partition(";")[0]
    return states


def _state_without_cluster(record: Record) -> str:
    """State of a job that the cluster has forgotten, as the storage has it."""
    from pipeline.cluster.resume import attempt_of

    attempt = attempt_of(record)
    if attempt.done:
        return "succeeded"
    if attempt.stopped or attempt.ended:
        return "failed"
    if attempt.newest.id != record.id:
        return "lost, and submitted again"
    return "lost: `kdeov resume` goes on with it"


def resume(
    storage: Annotated[
        str | None, typer.Option(help="Take up all jobs of this storage; needs no checkout.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of the cluster; default: cluster.address.")
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0, help="Leave jobs alone that showed no life for longer.")
    ] = 24.0,
) -> None:
    """Go on with jobs that a cluster has lost with its head; status 1 if one cannot."""
    from kdeov.errors import ConfigError
    from pipeline.cluster.attempt import attempts_in
    from pipeline.cluster.client import Dashboard
    from pipeline.cluster.records import Record
    from pipeline.cluster.resume import attempts_of, record
    from pipeline.cluster.resume import resume as resume_jobs
    from pipeline.config.params import load_params
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging

    setup_logging()
    layout = Layout.here()
    if address is None and (storage is None or layout.params.is_file()):
        address = load_params(layout.params).cluster.address
    if address is None:
        raise ConfigError("no cluster.address in params.yaml; give --address http://HOST:8265")
    found = attempts_in(storage) if storage else attempts_of(Record.all(layout))
    if not found:
        typer.echo(f"no job lies in {storage}" if storage else "no job was submitted from here")
        return
    dashboard, failed = Dashboard(address), False
    for outcome in resume_jobs(found, dashboard, hours * 3600):
        if not storage:
            record(outcome, dashboard, layout)
        typer.echo(f"{outcome.attempt.id}  {outcome.state}")
        failed |= outcome.failed
    if failed:
        raise typer.Exit(1)


def logs(
    stage: Annotated[str, typer.Argument(help="A stage that runs on a cluster, such as distill.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Follow the log until the job ends.")
    ] = False,
) -> None:
    """Show the log of the newest job of a stage."""
    from kdeov.errors import ConfigError
    from pipeline.cluster.client import Dashboard
    from pipeline.cluster.records import Record
    from pipeline.config.paths import Layout
    from pipeline.console import setup_logging

    setup_logging()
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
