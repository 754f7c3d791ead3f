"""Starts and ends Ray, on this machine or a cluster; user errors of workers in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, KdeovError, StorageError, first_line
from pipeline.runtime.compat import (
    LOOPBACK,
    PREEMPTION,
    RAY_ENVIRONMENT,
    listening_on_loopback,
    temporary_folder,
)
from pipeline.runtime.node import on_cluster
from pipeline.runtime.ray_requirements import require_ray_can_be_imported, require_ray_can_start

__all__ = ["PREEMPTION", "RAY_ENVIRONMENT"]

logger = logging.getLogger(__name__)


def set_ray_environment() -> dict[str, str]:
    """Sets the variables that Ray reads when it is imported, unless the user has set them, and
    returns them for workers.

    Raises:
        ConfigError: One of the user's variables would end the process when Ray is imported.
    """
    require_ray_can_be_imported()
    environment = {key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()}
    os.environ.update(environment)
    return environment


def bypass_proxies(*hosts: str) -> dict[str, str]:
    """Adds this machine's own addresses to those that no proxy of the environment serves.

    Args:
        hosts: Addresses besides 127.0.0.1 and localhost.

    Returns:
        The variables for workers; none where there is no proxy.
    """
    if not urllib.request.getproxies_environment():
        return {}
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    listed = [host.strip() for host in given.split(",") if host.strip()]
    listed = list(dict.fromkeys([*listed, LOOPBACK, "localhost", *hosts]))
    environment = dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(listed))
    os.environ.update(environment)
    return environment


@contextlib.contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """Starts Ray on this machine, or uses the one that is there already: a job's cluster, or a
    test's.

    Raises:
        ConfigError: This machine lacks something that Ray needs.
        StorageError: Ray did not start.
    """
    environment = set_ray_environment() | bypass_proxies()
    import ray

    if ray.is_initialized():
        yield
        return
    if on_cluster():
        # code and environment of the workers come from the submission
        ray.init(address="auto", logging_level=logging.WARNING)
    else:
        _start(cpus, environment)
    try:
        yield
    finally:
        ray.shutdown()


def _start(cpus: int, environment: dict[str, str]) -> None:
    """Starts Ray on this machine, for this process alone.

    Args:
        cpus: How many workers should find a CPU.
        environment: Variables of the workers.
    """
    import ray

    require_ray_can_start()
    logger.info("starting Ray on this machine")
    root = Path(__file__).resolve().parents[2]
    try:
        with listening_on_loopback():
            ray.init(
                address="local",
                num_cpus=max(cpus, os.cpu_count() or 1),
                # ten processes: seconds at the start, and a share of a core that training wants;
                # what asked it for the state of actors is left out too, see `lean_trainer`
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=True,
                runtime_env={"env_vars": {"PYTHONPATH": str(root), **environment}},
            )
    except Exception as error:  # Ray raises this very type for a node that does not come up
        raise StorageError(
            f"Ray did not start ({first_line(error)}); look at its logs in "
            f"{temporary_folder()}/ray/session_latest/logs; stages run "
            "without Ray where cluster.mode is inline"
        ) from error


def gpus_of_ray(use_gpu: bool | str) -> int:
    """Number of GPUs that Ray may use.

    Raises:
        ConfigError: They are asked for and there are none.
    """
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0)) if use_gpu else 0
    if use_gpu is True and not gpus:
        raise ConfigError(
            "cluster.use_gpu is true and Ray has no GPU; start machines that have one, or set it "
            "to auto or false"
        )
    return gpus


def share_machines(workers: int, gpus: bool) -> tuple[int, int]:
    """Shares out Ray's machines.

    Args:
        workers: How many are wanted.
        gpus: Whether each has a GPU.

    Returns:
        How many of the workers there is room for, one at least; and CPUs for each, one at least.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not gpus:
        nodes = [{"CPU": node.get("CPU", 0)} for node in nodes]
    while not (cpus := cpus_each(nodes, workers)) and workers > 1:
        workers -= 1
    return workers, max(1, cpus)


def cpus_each(nodes: list[dict[str, float]], count: int) -> int:
    """CPUs of each of so many workers, as many as fit at once; 0 where they do not fit at all.

    Args:
        nodes: What each machine has. Workers go to those with GPUs, where there are any.
        count: Of workers.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0)]
    if with_gpus:
        return max(1, int(min(node.get("CPU", 0) // node["GPU"] for node in with_gpus)))
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    shares = range(1, max(cpus, default=0) + 1)
    return max((c for c in shares if sum(n // c for n in cpus) >= count), default=0)


@contextlib.contextmanager
def one_line_errors_of_ray() -> Iterator[None]:
    """Takes a `KdeovError` of a worker out of what Ray wraps around it.

    Raises:
        KdeovError: The user error that a worker raised, or workers that died too often.
        KeyboardInterrupt: Where Ray turned it into its own way of stopping.
    """
    from ray.exceptions import RayActorError, RayError
    from ray.train import TrainingFailedError

    try:
        yield
    except SystemExit as stop:  # so Ray ends at Ctrl-C, and with status 0
        raise KeyboardInterrupt from stop
    except RayActorError as error:
        raise KdeovError(
            f"a worker of Ray died too often ({first_line(error)}); its log is in "
            f"{temporary_folder()}/ray/session_latest/logs; fix the cause, or "
            "raise cluster.max_failures"
        ) from error
    except (RayError, TrainingFailedError) as error:
        cause = unwrap_user_error(error)
        if cause is None:
            raise
        raise cause from error


def unwrap_user_error(error: BaseException) -> KdeovError | None:
    """The `KdeovError` somewhere within the errors that Ray wraps around it; None without one."""
    from ray.exceptions import RayError

    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        current = queue.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's wrapper of a KdeovError is a subclass of its type, with the stack trace as text
        if isinstance(current, KdeovError) and not isinstance(current, RayError):
            return current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue.append(getattr(current, "controller_failure", None))
        queue += list(getattr(current, "worker_failures", {}).values())
    return None


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
