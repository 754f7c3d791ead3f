"""The command `serve`: its arguments. What it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.student import ModelAddress


def serve(
    model: ModelAddress = None,
    index: Annotated[
        Path | None, typer.Option(help="What `kdeov index` made with this model, for /search.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file whose first line requests must show as a bearer token."),
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1024, help="Of an upload.")] = 20,
    max_megapixels: Annotated[int, typer.Option(min=1, max=1000, help="Of an image.")] = 50,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request.")] = 30,
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve with replicas on Ray (the extra ray-serve).")
    ] = False,
    replicas: Annotated[
        str, typer.Option(help="With --ray: a number, or MIN-MAX to scale with the load.")
    ] = "1",
) -> None:
    """Serve a student, and an index, over HTTP, with a page for people.

    A model models:/NAME@ALIAS of MLflow's registry is followed: another version takes over without
    a dropped request.
    """
    from pipeline.serve.command import serve_command
    from pipeline.serve.settings import Settings

    settings = Settings(
        max_bytes=max_megabytes << 20, max_pixels=max_megapixels * 1_000_000, timeout_s=timeout
    )
    serve_command(model, index, (host, port), token_file, settings, replicas if ray else None)


def add_commands(app: typer.Typer) -> None:
    """Adds `serve`."""
    app.command()(serve)
