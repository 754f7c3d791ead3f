"""Runs the application with uvicorn until a signal, and lets requests end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from kdeov.errors import ConfigError

GRACE_S = 30  # for requests that are being answered
KEEP_ALIVE_S = 30
BACKLOG = 2048


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens where the server will; port 0 chooses a free one.

    Raises:
        ConfigError: The address is in use or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{host}:{port} cannot be used ({reason}); give another --port or --host"
        ) from error
    listener.listen(BACKLOG)
    return listener


def make_server(app: Any, on_ready: Callable[[], None]) -> Any:
    """A `uvicorn.Server`; its `run(sockets=[...])` serves until SIGINT or SIGTERM.

    Args:
        app: An ASGI application.
        on_ready: Called once it answers.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    return Server(config)
