"""Time that training loses when one of its workers is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdeov.errors import DataError
from pipeline.bench.figures import Figure
from pipeline.runtime.ray_train import read_worker
from pipeline.storage.storage import Storage
from pipeline.training.config import TrainConfig

TIMEOUT_S = 240  # until a start or a recovery counts as failed
POLL_S = 0.05


@dataclass
class Recovery:
    """Attributes: seconds from the start to the first step, and from SIGKILL to the next step."""

    start: float
    recovery: float


def kill_figures(
    config: TrainConfig, train: Callable[[TrainConfig], None], after: int
) -> list[Figure]:
    """Measures `kill_seconds`, and the two times of which it is the difference.

    Args:
        config: Config of a new run of two ranks.
        train: Trains it on the Ray session that runs already.
        after: Steps after which a worker dies.
    """
    found = recover(config.with_cluster(checkpoint_every=1), train, after)
    return [
        Figure(
            "kill_seconds",
            found.recovery - found.start,
            60,
            "from SIGKILL of a worker to the next step, beyond the start of training",
            at_most=True,
        ),
        Figure("kill_to_step_seconds", found.recovery, None, "from SIGKILL to the next step"),
        Figure(
            "warm_start_seconds",
            found.start,
            8,
            "to the first step, once Ray runs",
            at_most=True,
        ),
    ]


def recover(config: TrainConfig, train: Callable[[TrainConfig], None], after: int) -> Recovery:
    """Kills a worker of a run and waits for the step that comes next.

    Args:
        config: Config of a run that writes a checkpoint, and so the log, at every step.
        train: Trains it.
        after: Steps after which a worker dies.

    Raises:
        DataError: Training did not start, or did not continue.
    """
    run, found = config.run, list[Recovery]()
    begun = time.time()

    def kill_worker() -> None:
        if not _wait_for(lambda: len(step_times(run)) >= after):
            return
        start, victim, killed = step_times(run)[0] - begun, pid_of_worker(run), time.time()
        os.kill(victim, signal.SIGKILL)
        # the other rank may still log a step that it took with the killed one
        if not _wait_for(lambda: pid_of_worker(run) != victim):
            return
        replaced = time.time()
        if _wait_for(lambda: step_times(run)[-1] > replaced):
            found.append(Recovery(start, step_times(run)[-1] - killed))

    thread = threading.Thread(target=kill_worker)
    thread.start()
    train(config)
    thread.join()
    if not found:
        raise DataError(
            "bench cluster: training did not continue after a worker was killed; see the log above"
        )
    return found[0]


def step_times(run: Storage) -> list[float]:
    """Times at which steps were logged, in order; seconds since 1970."""
    return sorted(Path(run.where(f"steps/{name}")).stat().st_mtime for name in run.names("steps"))


def pid_of_worker(run: Storage) -> int:
    """Process id of rank 1, which runs on this machine."""
    return int(read_worker(run, 1)["pid"])


def _wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
