"""Runs the training loop as `cluster.mode` asks: in this process, or in Ray workers."""

from __future__ import annotations

from pipeline.runtime.ray_train import train_on_ray
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.state import EpochMetrics


def launch(config: TrainConfig, name: str, tracker: LiveTracker) -> None:
    """Trains to the end.

    Args:
        config: What to train on what, and where.
        name: Name of the run.
        tracker: Logs every epoch.

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
        train(config, report)
    else:
        train_on_ray(train, config, name, report)
