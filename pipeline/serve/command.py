"""`kdeov serve`: the application on this machine, or on Ray Serve."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from kdeov.errors import ConfigError
from pipeline.console import setup_logging
from pipeline.serve.settings import Settings

MIN_TOKEN = 16  # characters
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve_command(
    model: str | None,
    index: Path | None,
    place: tuple[str, int],
    token_file: Path | None,
    settings: Settings,
    replicas: str | None,
) -> None:
    """Serves until a signal.

    Args:
        model: Address of the model.
        index: An index, or None.
        place: Host and port.
        token_file: Holds the token, or None.
        settings: Limits.
        replicas: Number of replicas on Ray, or MIN-MAX; None serves in this process.

    Raises:
        KdeovError: The model, the index, the token or the address cannot be used.
    """
    setup_logging()
    host, port = place
    token = _token(token_file) if token_file is not None else None
    hosts = (*LOOPBACK, host) if host in LOOPBACK else None
    settings = replace(settings, token=token, hosts=hosts)
    if replicas is not None:
        from pipeline.serve.on_ray import serve_on_ray

        serve_on_ray(model, index, place, settings, _bounds(replicas), _announce)
        return
    from pipeline.serve.app import create_app
    from pipeline.serve.server import bound_socket, make_server

    listener = bound_socket(host, port)  # before the model is opened, which takes seconds
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    app = create_app(model, index, settings)
    make_server(app, lambda: _announce(address)).run(sockets=[listener])


def _announce(address: str) -> None:
    typer.echo(address)
    sys.stdout.flush()


def _token(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"--token-file {path}: {reason}; write a token into it") from error
    token = lines[0].strip() if lines else ""
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"--token-file {path}: the first line must be a token of {MIN_TOKEN} printable ASCII "
            "characters or more; `openssl rand -hex 32` makes one"
        )
    return token


def _bounds(replicas: str) -> tuple[int, int]:
    low, dash, high = replicas.partition("-")
    try:
        bounds = int(low), int(high if dash else low)
    except ValueError as error:
        raise ConfigError(
            f"--replicas {replicas}: give a number, or MIN-MAX such as 1-4"
        ) from error
    if not 1 <= bounds[0] <= bounds[1]:
        raise ConfigError(f"--replicas {replicas}: give 1 or more, the smaller number first")
    return bounds
