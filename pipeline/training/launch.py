"""Runs the training loop where `cluster.mode` says: in this process, or in Ray workers."""

from __future__ import annotations

from pipeline.config.execution_params import ClusterParams
from pipeline.runtime.ray_train import train_on_ray
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train


def launch(config: TrainConfig, cluster: ClusterParams, name: str, tracker: LiveTracker) -> None:
    """Trains to the end.

    Args:
        config: What to train.
        cluster: Where.
        name: Of the run.
        tracker: Logs every epoch.

    Raises:
        KdeovError: Training stopped for a reason that the user can fix.
    """
    if cluster.mode == "inline":
        train(config, tracker.log_epoch)
    else:
        train_on_ray(train, config, cluster, name, tracker.log_epoch)
    # an epoch that ended just before its worker was killed is in the checkpoint, and was not logged
    state = config.checkpoints.latest()
    if state is not None:
        tracker.log_epochs(state["history"])
