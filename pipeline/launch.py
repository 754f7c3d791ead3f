"""Runs the training loop where `cluster.mode` says: in this process, or in Ray workers on this
machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.checkpoints import CheckpointStore
from pipeline.console import setup_logging
from pipeline.params import ClusterParams
from pipeline.tracking import LiveTracker
from pipeline.train_loop import TrainConfig, train

logger = logging.getLogger(__name__)

# Ray watches preemption and exports state for its dashboard; both cost seconds at start-up and
# nobody looks here.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # the default, said aloud so that Ray does not warn of it
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


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
    state = CheckpointStore(config.run / "checkpoints").latest()
    if state is not None:
        tracker.log_epochs(state["history"])


def _launch_ray(
    config: TrainConfig, cluster: ClusterParams, name: str, tracker: LiveTracker
) -> None:
    os.environ.update({key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()})
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchTrainer

    class TrackEpochs(UserCallback):
        """Runs in Ray's controller, which outlives workers: one writer for all of them."""

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            tracker.log_epoch(metrics[0])

    with ray_session(cluster.workers):
        use_gpu = cluster.use_gpu
        if use_gpu == "auto":
            use_gpu = ray.cluster_resources().get("GPU", 0) >= cluster.workers
        logger.info(
            "training on %d Ray workers, %s", cluster.workers, "one GPU each" if use_gpu else "CPUs"
        )
        trainer = TorchTrainer(
            ray_worker,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(num_workers=cluster.workers, use_gpu=bool(use_gpu)),
            run_config=RunConfig(
                # Ray takes up a run of the same name without a word; ours are taken up from our
                # checkpoints
                name=f"{name}-{time.time_ns()}",
                storage_path=str(config.run / "ray"),
                failure_config=FailureConfig(max_failures=cluster.max_failures),
                callbacks=[TrackEpochs()],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
        except SystemExit as stop:  # so Ray ends at Ctrl-C, and with status 0
            raise KeyboardInterrupt from stop
        except ray.train.TrainingFailedError as error:
            cause = _person_error(error)
            if cause is None:
                raise
            raise cause from error


def ray_worker(settings: dict[str, Any]) -> None:
    """The training loop in a Ray worker."""
    from ray import train as ray_train

    setup_logging()
    logging.getLogger().setLevel(logging.WARNING)  # Ray repeats every report to the root logger
    train(settings["config"], ray_train.report)


@contextlib.contextmanager
def ray_session(cpus: int) -> Iterator[None]:
    """Ray on this machine, or the one that is there already (tests share one)."""
    import ray

    if ray.is_initialized():
        yield
        return
    root = Path(__file__).resolve().parent.parent
    logger.info("starting Ray on this machine")
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        include_dashboard=True,  # without it, Ray complains every second that it cannot see itself
        dashboard_host="127.0.0.1",
        logging_level=logging.WARNING,
        log_to_driver=True,
        runtime_env={"env_vars": {"PYTHONPATH": str(root), **RAY_ENVIRONMENT}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def _person_error(error: BaseException) -> KdeovError | None:
    """The `KdeovError` somewhere within what Ray wraps around it."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        current = queue.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, KdeovError):
            return current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
    return None
