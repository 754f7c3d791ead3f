"""Waits until a cluster has machines for a job: one that scales from zero starts them then."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from kdeov.errors import ConfigError

logger = logging.getLogger(__name__)

POLL_S = 1.0
REMINDER_S = 300.0  # between two lines of the log that say what a job waits for


def room_for(nodes: list[dict[str, float]], worker: dict[str, float]) -> int:
    """Number of workers that machines have room for, busy or not.

    Args:
        nodes: Resources of each machine.
        worker: Resources of a worker, none of them 0.
    """
    return sum(
        int(min(node.get(kind, 0) // amount for kind, amount in worker.items())) for node in nodes
    )


def wait_for_room(workers: int, use_gpu: bool | str, limit_s: float) -> None:
    """Waits until the cluster has machines for so many workers, with a CPU each. Meanwhile Ray's
    autoscaler is asked for them, by a placement group that ends with this process.

    Machines that other jobs keep busy count too: whoever starts the workers waits for their turn.

    Args:
        workers: Number of workers.
        use_gpu: Whether each needs a GPU too. `auto` takes what the cluster starts for CPUs.
        limit_s: Seconds after which waiting fails.

    Raises:
        ConfigError: The machines have not come in this time.
    """
    worker = {"CPU": 1.0} | ({"GPU": 1.0} if use_gpu is True else {})
    if room_for(_nodes(), worker) >= workers:
        return
    start, told = time.monotonic(), -REMINDER_S
    with _asking_for(workers, worker):
        while (room := room_for(nodes := _nodes(), worker)) < workers:
            passed = time.monotonic() - start
            found = _missing(workers, worker, room, nodes)
            if passed >= limit_s:
                raise ConfigError(
                    f"{found} after {passed:,.0f} s; start machines or look at the autoscaler's "
                    "log, ask for less with cluster.num_workers or cluster.use_gpu, or raise "
                    "cluster.node_wait_s"
                )
            if passed - told >= REMINDER_S:
                told = passed
                logger.warning(
                    "waiting for machines: %s; for at most %s more (cluster.node_wait_s)",
                    found, _minutes(limit_s - passed),
                )  # fmt: skip
            time.sleep(POLL_S)
    logger.info(
        "machines for %d workers are there, after %.0f s", workers, time.monotonic() - start
    )


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def _asking_for(workers: int, worker: dict[str, float]) -> Iterator[None]:
    """Shows the autoscaler a demand that it can place; gives the room back afterwards."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group: Any = placement_group([worker] * workers, strategy="PACK")
    try:
        yield
    finally:
        remove_placement_group(group)


def _missing(
    workers: int, worker: dict[str, float], room: int, nodes: list[dict[str, float]]
) -> str:
    """`2 workers need 1 CPU each, and the cluster has room for 0 (1 node, 0 CPUs)`."""
    needs = " and ".join(f"1 {kind}" for kind in worker)
    has = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):.0f} {kind}s" for kind in worker)
    count = f"{workers} worker{' needs' if workers == 1 else 's need'}"
    each = "" if workers == 1 else " each"
    machines = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return f"{count} {needs}{each}, and the cluster has room for {room} ({machines}, {has})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
