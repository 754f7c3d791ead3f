"""Runs the training loop as `cluster.mode` asks: in this process, or in Ray workers."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.runtime.ray_train import Loop, train_on_ray
from pipeline.training.config import RunConfig
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics


class EpochLog(Protocol):
    """Shows epochs while they come."""

    def log_epoch(self, epoch: EpochMetrics) -> object:
        """Logs an epoch."""

    def log_epochs(self, history: list[EpochMetrics]) -> object:
        """Logs those of the epochs that are not logged yet."""


def launch(config: RunConfig, name: str, tracker: EpochLog, loop: Loop[Any] = train) -> None:
    """Trains to the end.

    Args:
        config: What to train on what, and where.
        name: Name of the run.
        tracker: Logs every epoch.
        loop: The loop of every rank.

    Raises:
        KdeovError: Training stopped for a reason that the user can fix.
    """
    reported = {0}

    def report(epoch: EpochMetrics) -> None:
        number = int(epoch["epoch"])
        if number - 1 not in reported:
            # the report was lost with a worker, or went to the driver of an earlier attempt
            state = config.checkpoints.latest()
            tracker.log_epochs(state["history"] if state else [])
        tracker.log_epoch(epoch)
        reported.add(number)

    if config.cluster.mode == "inline":
        loop(config, report, lambda: False)
    else:
        train_on_ray(loop, config, name, report)
