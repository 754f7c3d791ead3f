"""The training loop: the same code in this process, in Ray workers and on a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pipeline.runtime.device import cpu_threads, tuned_convolutions
from pipeline.training.config import TrainConfig
from pipeline.training.rank import RankTrainer
from pipeline.training.state import EpochMetrics
from pipeline.training.trainer import Trainer

logger = logging.getLogger(__name__)

Report = Callable[[EpochMetrics], None]
TRAIN_THREADS = 1  # CPU threads of a worker: with another number, gradients round differently


def train(
    config: TrainConfig, report: Report, restart_due: Callable[[], bool] = lambda: False
) -> None:
    """Distils to the end, from the newest checkpoint if there is one, on one CPU thread.

    Args:
        config: What to train on what, and where.
        report: Called on every rank with the metrics of each epoch.
        restart_due: See `RankTrainer`.

    Raises:
        KdeovError: The data do not fit, or the loss is no longer finite.
    """
    with cpu_threads(TRAIN_THREADS), tuned_convolutions():
        run_epochs(Trainer(config, restart_due), report)


def run_epochs(trainer: RankTrainer[Any, Any], report: Report) -> None:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
        trainer: One rank of a run.
        report: Called on every rank with the metrics of each epoch.

    Raises:
        KdeovError: The loss is no longer finite, or a checkpoint cannot be read or written.
    """
    epochs = trainer.params.epochs
    trainer.resume()
    state = trainer.state
    if trainer.rank == 0 and state.global_step:
        logger.info("resuming after epoch %d of %d, step %d", state.epoch, epochs, state.step)
    done, start = state.epoch, time.perf_counter()
    while state.epoch < epochs:
        row: EpochMetrics = {
            "epoch": state.epoch + 1,
            "learning_rate": trainer.learning_rate,
            "workers": trainer.world_size,
            "on_gpu": float(trainer.device == "cuda"),
        }
        row.update(trainer.train_epoch())
        row.update(trainer.validate())
        trainer.end_epoch(row)
        if trainer.rank == 0:
            seconds = (time.perf_counter() - start) / (state.epoch - done)
            logger.info(
                "epoch %d of %d: loss %.4f, %s, %.0f images/s, %.0f s left",
                state.epoch, epochs, row["train_total"], trainer.describe(row),
                row["images_per_s"], seconds * (epochs - state.epoch),
            )  # fmt: skip
        report(row)
