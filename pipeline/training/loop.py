"""The distillation loop: the same in this process, in Ray workers on one machine, and on a cluster.

Started again, it goes on after the last checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pipeline.training.config import TrainConfig
from pipeline.training.trainer import EpochMetrics, Trainer

logger = logging.getLogger(__name__)

Report = Callable[[EpochMetrics], None]


def train(config: TrainConfig, report: Report, notice: Callable[[], bool] = lambda: False) -> None:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
        config: What to train on what.
        report: Called by every rank after every epoch with that epoch's row of history.
        notice: See `Trainer`.

    Raises:
        KdeovError: The data do not fit, or the loss is no longer finite.
    """
    trainer, epochs = Trainer(config, notice), config.params.epochs
    trainer.resume()
    if trainer.rank == 0 and (trainer.epoch or trainer.step):
        logger.info("going on after epoch %d of %d, step %d", trainer.epoch, epochs, trainer.step)
    done, start = trainer.epoch, time.perf_counter()
    while trainer.epoch < epochs:
        row: EpochMetrics = {
            "epoch": trainer.epoch + 1,
            "learning_rate": trainer.learning_rate,
            "workers": trainer.world,
        }
        row.update(trainer.train_epoch())
        row.update(trainer.validate())
        trainer.end_epoch(row)
        if trainer.rank == 0:
            seconds = (time.perf_counter() - start) / (trainer.epoch - done)
            logger.info(
                "epoch %d of %d: loss %.4f, validation cosine %.4f, %.0f images/s, %.0f s left",
                trainer.epoch, epochs, row["train_total"], row["val_cosine"],
                row["images_per_s"], seconds * (epochs - trainer.epoch),
            )  # fmt: skip
        report(row)
