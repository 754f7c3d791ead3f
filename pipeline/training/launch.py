"""Runs the training loop as `cluster.mode` asks: in this process, or in Ray workers."""

from __future__ import annotations

from pipeline.runtime.ray_train import train_on_ray
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train


def launch(config: TrainConfig, name: str, tracker: LiveTracker) -> None:
    """Trains to the end.

    Args:
        config: What to train on what, and where.
        name: Name of the run.
        tracker: Logs every epoch.

    Raises:
        KdeovError: Training stopped for a reason that the user can fix.
    """
    if config.cluster.mode == "inline":
        train(config, tracker.log_epoch)
    else:
        train_on_ray(train, config, config.cluster, name, tracker.log_epoch)
