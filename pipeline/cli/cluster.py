"""`kdeov cluster`: a small Ray cluster on this machine, and files for large ones."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.errors import CommandGroup

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
