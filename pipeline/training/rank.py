"""One rank of any training run: its epochs, checkpoints and resumption. What a step and a
validation are is for the subclass to say.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from kdeov.errors import ConfigError, KdeovError
from kdeov.training.distributed import (
    broadcast_object,
    get_rank,
    get_world_size,
    mean_over_ranks,
)
from kdeov.training.rng import seed_rng
from pipeline.data.epoch_plan import EpochPlan
from pipeline.runtime.device import pick_device
from pipeline.storage.files import json_text
from pipeline.training.config import RunConfig
from pipeline.training.state import EpochMetrics, TrainState
from pipeline.training.step_log import StepLog, keys_digest

RESTART_CHECK_STEPS = 10  # steps between calls of `restart_due`


class KeyedBatch(Protocol):
    """A rank's share of a step."""

    @property
    def keys(self) -> list[str]: ...


C = TypeVar("C", bound=RunConfig)
B = TypeVar("B", bound=KeyedBatch)


class RankTrainer(ABC, Generic[C, B]):
    """A training run, as one rank takes part in it.

    Args:
        config: What to train on what, and how.
        sizes: Samples of each training shard.
        restart_due: Returns, equally on all ranks, whether the workers are about to be restarted,
            for instance because a machine will be taken away. A checkpoint is then written.

    Attributes:
        section: Section of params, for messages.
        state: All that the next step depends on; `prepare` of the subclass sets it.
    """

    section: ClassVar[str]
    state: TrainState

    def __init__(
        self, config: C, sizes: list[int], restart_due: Callable[[], bool] = lambda: False
    ) -> None:
        self.config, self.params, self.restart_due = config, config.params, restart_due
        self.rank, self.world_size = get_rank(), get_world_size()
        self.device = pick_device(config.cluster.use_gpu)
        self.log = StepLog(config.run / "steps", self.device)
        self.sizes = sizes
        self._plan = config.plan(sizes, epoch=0)
        self.shares = self._plan.shares(self.world_size)
        self._saved_step = 0

    def start(self, state: TrainState) -> None:
        """Sets the state before the first step, and seeds this rank."""
        self.state = state
        seed_rng(self.params.seed, self.rank)

    @property
    def plan(self) -> EpochPlan:
        """The data plan of the current epoch; made once an epoch, since it holds all shards."""
        if self._plan.epoch != self.state.epoch:
            self._plan = self.config.plan(self.sizes, self.state.epoch)
        return self._plan

    @property
    def learning_rate(self) -> float:
        """The learning rate at the first step of the current epoch."""
        first_step = self.state.epoch * self.state.steps_per_epoch
        return self.params.learning_rate * self.state.schedule.lr_lambdas[0](first_step)

    def resume(self) -> None:
        """Loads the newest checkpoint, or prepares the first step where there is none.

        Raises:
            KdeovError: The checkpoint cannot be read.
        """
        store = self.config.checkpoints
        if self.rank == 0:
            store.clean()
        # one rank looks: a machine may see a shared folder as it was a minute ago
        newest = broadcast_object(store.newest_name() if self.rank == 0 else None)
        if newest is None:
            self.initialize()
            return
        self.state.load_state_dict(store.read(newest, self.device))
        self._saved_step = self.state.global_step

    def initialize(self) -> None:
        """Changes weights before the first step of a run."""

    @abstractmethod
    def batches(self, from_step: int) -> Iterable[B]:
        """This rank's batches of the current epoch, from a step on."""

    @abstractmethod
    def train_step(self, batch: B) -> float:
        """Updates the weights once; returns this rank's loss."""

    @abstractmethod
    def validate(self) -> EpochMetrics:
        """Metrics of the validation split."""

    @abstractmethod
    def describe(self, row: EpochMetrics) -> str:
        """The validation of an epoch in a few words."""

    def train_epoch(self) -> EpochMetrics:
        """Takes the remaining steps of the epoch.

        Returns:
            `train_` and the name of each loss term: its mean over the epoch; `train_total`;
            `repeated_samples`; `images_per_s`; and `data_wait`, the share of the time spent waiting
            for batches.
        """
        state, plan = self.state, self.plan
        first = state.step
        state.trained.train()
        start, waited = time.perf_counter(), 0.0
        place = sum(self.shares[: self.rank])
        with closing(timed(self.batches(first))) as batches:  # a prefetching thread ends with it
            for batch, seconds in batches:
                waited += seconds
                loss = self.train_step(batch)
                self.log.add(state.epoch, state.step, loss, keys_digest(batch.keys, place))
                state.step += 1
                if state.step < plan.steps and self._checkpoint_due():
                    self.save()
        seconds = time.perf_counter() - start
        means = {name: value / plan.steps for name, value in state.sums.items()}
        row = {f"train_{name}": mean_over_ranks(value).item() for name, value in means.items()}
        return row | {
            "repeated_samples": plan.repeated,
            "images_per_s": (plan.steps - first) * plan.global_batch_size / seconds,
            "data_wait": waited / seconds,
        }

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Adds the epoch's metrics to the history and writes a checkpoint."""
        self.state.end_epoch(metrics)
        self.save()

    def save(self) -> None:
        """Writes a checkpoint, and the log of the steps before it; a collective call."""
        self.log.write(self._saved_step)
        self._saved_step = self.state.global_step
        state = self.state.state_dict()
        if self.rank == 0:
            self.config.checkpoints.save(self._saved_step, state)

    def clip_gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], keys: list[str]
    ) -> float:
        """Scales gradients down to `max_grad_norm`, and returns the loss.

        Raises:
            KdeovError: Loss or gradients are not finite.
        """
        norm = nn.utils.clip_grad_norm_(parameters, self.params.max_grad_norm)
        # the only numbers of a step that the host waits for, together: a GPU is idle meanwhile
        value, length = torch.stack([loss.detach().double(), norm.double()]).tolist()
        if not math.isfinite(value):
            raise self.diverged(value, keys)
        if not math.isfinite(length):  # the same on all ranks
            raise self.diverged(length, keys, "length of its gradient")
        return value

    def diverged(self, value: float, keys: list[str], what: str = "loss") -> KdeovError:
        """The error of a step whose numbers are not finite; writes all of its keys to a file."""
        name = f"stopped-rank-{self.rank}.json"
        newest = self.config.checkpoints.newest
        epoch, step = self.state.epoch + 1, self.state.step + 1
        stopped = {
            what: str(value),
            "epoch": epoch,
            "step": step,
            "keys": keys,
            "last_good_checkpoint": newest,
        }
        self.config.run.write(name, json_text(stopped).encode())
        return ConfigError(
            f"the {what} is {value} in epoch {epoch}, step {step}, at the images "
            f"{', '.join(keys[:4])}... (all in {self.config.run.where(name)}); the last good "
            f"checkpoint is {newest or 'none yet'}; lower {self.section}.learning_rate, or check "
            "these images"
        )

    def _checkpoint_due(self) -> bool:
        """Whether a checkpoint follows this step: at fixed steps, and before a restart."""
        if self.state.step % self.config.cluster.checkpoint_every == 0:
            return True
        return self.state.global_step % RESTART_CHECK_STEPS == 0 and self.restart_due()


def timed(batches: Iterable[B]) -> Generator[tuple[B, float]]:
    """Batches, each with the seconds that the loop waited for it."""
    asked = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - asked
        asked = time.perf_counter()
