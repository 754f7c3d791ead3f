"""How long training stands still when one of its workers is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdeov.errors import KdeovError
from pipeline.bench.figures import Figure
from pipeline.storage.storage import Storage
from pipeline.training.config import TrainConfig

PATIENCE = 240  # seconds, until a start or a recovery counts as failed
POLL = 0.05


@dataclass
class Recovery:
    """Seconds from a start to the first step, and from a SIGKILL to the next one."""

    start: float
    recovery: float


def kill_figures(
    config: TrainConfig, train: Callable[[TrainConfig], None], after: int
) -> list[Figure]:
    """`kill_seconds`, and the two times of which it is the difference.

    Args:
        config: Of a run of two ranks that nobody has begun.
        train: Trains it to the end on the Ray that runs already.
        after: Steps after which a worker dies.
    """
    found = recover(config.with_cluster(checkpoint_every=1), train, after)
    return [
        Figure(
            "kill_seconds",
            found.recovery - found.start,
            60,
            "from SIGKILL of a worker to the next step, beyond Ray's own start",
            at_most=True,
        ),
        Figure("kill_to_step_seconds", found.recovery, None, "from SIGKILL to the next step"),
        Figure("warm_start_seconds", found.start, None, "Ray's own start, once Ray is there"),
    ]


def recover(config: TrainConfig, train: Callable[[TrainConfig], None], after: int) -> Recovery:
    """Kills a worker of a run and waits for the step that comes next.

    Args:
        config: Of a run that writes a checkpoint every step; the log of a step comes with it.
        train: Trains it.
        after: Steps after which a worker dies.

    Raises:
        KdeovError: Training did not begin, or did not go on.
    """
    run, found = config.run, list[Recovery]()
    begun = time.time()

    def murder() -> None:
        if not _wait_for(lambda: len(step_times(run)) >= after):
            return
        start, victim, killed = step_times(run)[0] - begun, pid_of_worker(run), time.time()
        os.kill(victim, signal.SIGKILL)
        # the other rank may still have logged a step that it took with the dead one
        if not _wait_for(lambda: pid_of_worker(run) != victim):
            return
        replaced = time.time()
        if _wait_for(lambda: step_times(run)[-1] > replaced):
            found.append(Recovery(start, step_times(run)[-1] - killed))

    thread = threading.Thread(target=murder)
    thread.start()
    train(config)
    thread.join()
    if not found:
        raise KdeovError("bench cluster: training did not go on after a worker was killed")
    return found[0]


def step_times(run: Storage) -> list[float]:
    """When steps were logged, in order; seconds since 1970."""
    return sorted(Path(run.where(f"steps/{name}")).stat().st_mtime for name in run.names("steps"))


def pid_of_worker(run: Storage) -> int:
    """The process of rank 1, on this machine."""
    return int(json.loads(run.read("workers/rank-1.json"))["pid"])


def _wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True
