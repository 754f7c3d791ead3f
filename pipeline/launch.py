"""Runs the training loop where `cluster.mode` says: in this process, or in Ray workers on this
machine.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from pipeline.cluster.node import ready_node
from pipeline.console import setup_logging
from pipeline.on_ray import one_line_errors_of_ray, person_error, ray_session
from pipeline.params import ClusterParams
from pipeline.tracking import LiveTracker
from pipeline.train_loop import train
from pipeline.trainer import TrainConfig

logger = logging.getLogger(__name__)


def launch(config: TrainConfig, cluster: ClusterParams, name: str, tracker: LiveTracker) -> None:
    """Trains to the end.

    Args:
        config: What to train.
        cluster: Where.
        name: Of the run.
        tracker: Hears of every epoch.

    Raises:
        KdeovError: Training stopped for a reason that a person can mend.
    """
    if cluster.mode == "inline":
        train(config, tracker.log_epoch)
    else:
        _launch_ray(config, cluster, name, tracker)
    # an epoch that ended just before its worker was killed is in the checkpoint, but was not told
    state = config.checkpoints.latest()
    if state is not None:
        tracker.log_epochs(state["history"])


def _launch_ray(
    config: TrainConfig, cluster: ClusterParams, name: str, tracker: LiveTracker
) -> None:
    with ray_session(cluster.most_workers), one_line_errors_of_ray():
        import ray  # not before: Ray reads its environment when it is imported
        from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
        from ray.train.torch import TorchTrainer

        class TrackEpochs(UserCallback):
            """Runs in Ray's controller, which outlives workers: one writer for all of them."""

            def after_report(
                self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
            ) -> None:
                tracker.log_epoch(metrics[0])

            def after_exception(
                self, run_context: Any, worker_exceptions: dict[int, Exception]
            ) -> None:
                """A person's mistake stays one however often it is tried."""
                for error in worker_exceptions.values():
                    if mistake := person_error(error):
                        raise mistake

        use_gpu = cluster.use_gpu
        if use_gpu == "auto":
            use_gpu = ray.cluster_resources().get("GPU", 0) >= cluster.most_workers
        logger.info(
            "training on %d Ray workers, %s",
            cluster.most_workers,
            "one GPU each" if use_gpu else "CPUs",
        )
        TorchTrainer(
            ray_worker,
            # decided here: Ray does not hide GPUs from workers that have none
            train_loop_config={"config": replace(config, use_gpu=bool(use_gpu))},
            scaling_config=ScalingConfig(num_workers=cluster.most_workers, use_gpu=bool(use_gpu)),
            run_config=RunConfig(
                # Ray takes up a run of the same name without a word; ours are taken up from our
                # checkpoints
                name=f"{name}-{time.time_ns()}",
                storage_path=str(config.run / "ray"),
                failure_config=FailureConfig(max_failures=cluster.max_failures),
                callbacks=[TrackEpochs()],  # type: ignore[list-item]
            ),
        ).fit()


def ray_worker(settings: dict[str, Any]) -> None:
    """The training loop in a Ray worker."""
    from ray import train as ray_train

    ready_node()
    setup_logging()
    logging.getLogger().setLevel(logging.WARNING)  # Ray repeats every report to the root logger
    train(settings["config"], ray_train.report)
