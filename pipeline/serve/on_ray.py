"""The same application on Ray Serve: replicas that come and go with the load."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, StorageError, first_line
from pipeline.runtime.ray_session import ray_session, set_ray_environment
from pipeline.serve.app import create_app
from pipeline.serve.server import bound_socket
from pipeline.serve.settings import Settings

NAME = "kdeov"
BATCHES_AHEAD = 2  # that a replica takes on: while one is computed, the next one gathers


def serve_on_ray(
    model: str | None,
    index: Path | None,
    place: tuple[str, int],
    settings: Settings,
    replicas: tuple[int, int],
    on_ready: Callable[[str], None],
) -> None:
    """Serves with replicas on Ray until SIGINT or SIGTERM: a Ray of this machine, or that of the
    job which this process is.

    Args:
        model: Address of the model; a folder must be seen by all machines of a cluster.
        index: An index, or None.
        place: Host and port.
        settings: Limits, of each replica.
        replicas: The least and the most.
        on_ready: Called with the address once it answers.

    Raises:
        ConfigError: The port is in use, or Ray Serve is not installed.
        StorageError: The replicas did not start.
    """
    set_ray_environment()  # Ray reads its way to log in when it is imported
    try:
        from ray import serve
    except ImportError as error:
        raise ConfigError(
            f"--ray needs {error.name}; pip install 'kdeov[train,serve,ray-serve]'"
        ) from error
    host, port = place
    listener = bound_socket(host, port)
    port = listener.getsockname()[1]
    listener.close()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    address = str(Path(model).absolute()) if model and Path(model).exists() else model
    build = partial(create_app, address, index.absolute() if index else None, settings)
    with ray_session(replicas[1] + 1):
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port, "access_log": False},
        )
        try:
            application = deployment(build, settings, replicas).bind()
            serve.run(application, name=NAME, route_prefix="/")
        except Exception as error:  # Ray raises this very type
            serve.shutdown()
            raise StorageError(
                f"no replica started ({first_line(error)}); `kdeov serve` without --ray says why"
            ) from error
        on_ready(f"http://{host}:{port}")
        try:
            stopped.wait()
        finally:
            serve.shutdown()


def deployment(build: Callable[[], Any], settings: Settings, replicas: tuple[int, int]) -> Any:
    """A deployment of Ray Serve.

    Args:
        build: Makes the application, in each replica.
        settings: Limits, of each replica.
        replicas: The least and the most.
    """
    from ray import serve

    low, high = replicas
    ongoing = BATCHES_AHEAD * settings.batch_size
    count: dict[str, Any] = {"num_replicas": low}
    if high > low:
        count = {
            "autoscaling_config": {
                "min_replicas": low,
                "max_replicas": high,
                "target_ongoing_requests": settings.batch_size,
            }
        }

    def built() -> Any:  # Ray Serve takes functions alone
        return build()

    made: Any = serve.deployment(serve.ingress(built)())
    return made.options(
        name=NAME,
        max_ongoing_requests=ongoing,
        max_queued_requests=max(0, settings.capacity - ongoing),
        ray_actor_options={"num_cpus": 1},
        **count,
    )
