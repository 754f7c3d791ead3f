"""How long training stands still when one of its workers is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from kdeov.errors import KdeovError
from pipeline.bench.figures import Figure
from pipeline.bench.step_watch import POLL, StepWatch
from pipeline.trainer import TrainConfig

PATIENCE = 240  # seconds, until a start or a recovery counts as failed


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
    found = recover(replace(config, checkpoint_every=1), train, after)
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
    """Kills a worker of a run and watches for the step that comes next.

    Raises:
        KdeovError: Training did not begin, or did not go on.
    """
    found: list[Recovery] = []
    begun = time.time()

    def murder(watch: StepWatch) -> None:
        if not watch.wait([after] * 2, PATIENCE):
            return
        killed = time.time()
        os.kill(training_workers()[-1].pid, signal.SIGKILL)
        time.sleep(10 * POLL)  # it is gone, and its last line has been seen
        taken = watch.taken
        if watch.wait(taken, PATIENCE):
            # the other rank may have ended its step after the kill: the later one tells
            next_step = max(ends[steps] for ends, steps in zip(watch.ends, taken, strict=True))
            found.append(Recovery(max(ends[0] for ends in watch.ends) - begun, next_step - killed))

    with StepWatch(config.run, 2) as watch:
        thread = threading.Thread(target=murder, args=(watch,))
        thread.start()
        train(config)
        thread.join()
    if not found:
        raise KdeovError("bench cluster: training did not go on after a worker was killed")
    return found[0]


def training_workers() -> list[psutil.Process]:
    """Those of the Ray that this process has started."""
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if "RayTrainWorker" in " ".join(process.cmdline())]
