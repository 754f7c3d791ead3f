"""The state of a training run on one rank: all that its next step depends on.

A run that was killed and loads the state of its newest checkpoint takes the same steps as a run
that was not; on CPUs, to the bit.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdeov.models.student import VisualStudent
from kdeov.training.distributed import get_rank, mean_over_ranks
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import ExponentialAverage, build_optimizer, build_schedule
from kdeov.training.rng import gather_rng_states, set_rng_state
from pipeline.config.stage_params import DistillParams

EpochMetrics = dict[str, float]


class Schedule(Protocol):
    """How a run is trained, whatever it trains."""

    @property
    def epochs(self) -> int: ...

    @property
    def warmup_fraction(self) -> float: ...

    @property
    def ema_decay(self) -> float: ...


class TrainState:
    """Weights, optimizer, schedule and position of a run.

    Args:
        model: Holds all parameters that the optimizer updates.
        name: Name of the part of `model` that is validated and saved.
        optimizer: Updates the parameters.
        params: The section of the stage.
        steps_per_epoch: Steps of every epoch.

    Attributes:
        epoch: Completed epochs.
        step: Completed steps of the current epoch.
        history: The metrics of each completed epoch.
        sums: Sums of each loss term over the completed steps of the epoch, on this rank.
        trained: The part that is validated and saved.
        average: The moving average of that part; None where `ema_decay` is 0.
    """

    def __init__(
        self,
        model: nn.ModuleDict,
        name: str,
        optimizer: torch.optim.Optimizer,
        params: Schedule,
        steps_per_epoch: int,
    ) -> None:
        self.epoch = self.step = 0
        self.history: list[EpochMetrics] = []
        self.sums: dict[str, Tensor] = {}
        self.model, self.name, self.trained = model, name, model[name]
        self.optimizer, self.steps_per_epoch = optimizer, steps_per_epoch
        steps = steps_per_epoch * params.epochs
        warmup = max(1, round(steps * params.warmup_fraction))
        self.schedule = build_schedule(self.optimizer, steps, warmup)
        decay = params.ema_decay
        self.average = ExponentialAverage(self.trained, decay) if decay else None

    @property
    def global_step(self) -> int:
        """Completed steps of the run."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are validated and saved: the average where there is one."""
        return self.average.module if self.average is not None else self.trained

    def take_step(self, terms: dict[str, Tensor]) -> None:
        """Updates the parameters by their gradients, and all that follows from it."""
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.trained)
        self.add_terms(terms)

    def add_terms(self, terms: dict[str, Tensor]) -> None:
        """Adds the loss terms of a step to `sums`."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Moves to the start of the next epoch."""
        self.history.append(metrics)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as `torch.load(weights_only=True)` reads them. Tensors are not
        copied. A collective call; the result holds for all ranks.
        """
        rng = gather_rng_states()
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "sums": {name: mean_over_ranks(value).item() for name, value in self.sums.items()},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": rng,
            self.name: self.eval_model.state_dict(),
        }
        if self.average is not None:
            state["average_updates"] = self.average.updates  # its weights are under `name`
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, also for another number of ranks: a rank without a state of
        its own keeps its seed.
        """
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = state["history"]
        device = next(self.trained.parameters()).device
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in state["sums"].items()
        }
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.module.load_state_dict(state[self.name])
            self.average.updates = state["average_updates"]
        if get_rank() < len(state["rng"]):
            set_rng_state(state["rng"][get_rank()])


def distillation_state(
    student: VisualStudent,
    loss: FeatureAlignmentLoss,
    params: DistillParams,
    steps_per_epoch: int,
) -> TrainState:
    """The state of a distillation.

    Args:
        student: The student, with what is frozen not requiring gradients.
        loss: Its temperatures are trained too.
        params: The `distill` section.
        steps_per_epoch: Steps of every epoch.
    """
    model = nn.ModuleDict({"student": student, "loss": loss})
    rate = params.backbone_learning_rate
    optimizer = build_optimizer(
        model,
        params.learning_rate,
        params.weight_decay,
        part=(student.backbone, rate) if rate else None,
    )
    return TrainState(model, "student", optimizer, params, steps_per_epoch)
