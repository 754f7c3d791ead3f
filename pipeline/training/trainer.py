"""The state of a training run on one rank, and how it moves on by a step and by an epoch.

Everything that the next step depends on is in a checkpoint: a run that was killed goes on with the
very batches and numbers that it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.errors import KdeovError
from kdeov.models.student import VisualStudent
from kdeov.training.distributed import broadcast_object, sum_over_ranks, world
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import ExponentialAverage, build_optimizer, build_schedule
from kdeov.training.ridge_init import fit_projection
from kdeov.training.rng import restore_generators, seed_generators, states_of_all_ranks
from pipeline.data.epoch_plan import EpochPlan, check_sharing
from pipeline.data.loader import Batch, BatchLoader, EpochStream, EvaluationStream, epoch_loader
from pipeline.runtime.device import pick_device
from pipeline.storage.files import json_text
from pipeline.training.config import TrainConfig
from pipeline.training.step_log import StepLog, keys_digest

EpochMetrics = dict[str, float]
VALIDATION_BATCH = 64
NOTICE_EVERY = 10  # steps between questions whether a machine is about to go
FITTED = 16_384  # images from which the last linear map is fitted before training


class Trainer:
    """A training run.

    Args:
        config: What to train on what.
        notice: Tells every few steps whether a machine of the run is about to be taken away; all
            ranks hear the same.

    Attributes:
        epoch: Epochs that are done.
        step: Steps of the current epoch that are done.
        history: A row for each epoch that is done.

    Raises:
        KdeovError: Params and data do not fit together.
    """

    def __init__(self, config: TrainConfig, notice: Callable[[], bool] = lambda: False) -> None:
        self.config, self.params, self.notice = config, config.params, notice
        p = config.params
        self.rank, self.world = world()
        self.train_shards, self.val_shards = config.shards("train"), config.shards("val")
        check_sharing(
            p.global_batch_size,
            p.num_streams,
            p.micro_batch_size,
            self.world,
            len(self.train_shards),
        )
        self.device = pick_device(config.use_gpu)
        self.transform = ImageTransform(size=p.image_size)
        self.epoch = self.step = 0
        self._saved = 0
        self.log = StepLog(config.run / "steps", self.device)
        self.history: list[EpochMetrics] = []
        self._sums: dict[str, Tensor] = {}
        torch.manual_seed(p.seed)
        self.student = VisualStudent(
            p.backbone, p.fusion, self.train_shards.dim, p.backbone_weights
        ).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if p.freeze_batch_norm:
            self.student.backbone.fix_statistics()
        if p.backbone_learning_rate == 0:
            self.student.backbone.freeze()
        weights = p.losses.model_dump()
        fusion_weight = weights.pop("fusion")
        loss = FeatureAlignmentLoss(weights, p.feature_loss).to(self.device)
        self.shares = self.plan.shares(self.world)
        self.joined = GradCacheStep(
            self.student, loss, fusion_weight, p.micro_batch_size, self.shares, config.compile
        )
        self.trained = nn.ModuleDict({"student": self.student, "loss": loss})
        rate = p.backbone_learning_rate
        apart = (self.student.backbone, rate) if rate else None
        self.optimizer = build_optimizer(self.trained, p.learning_rate, p.weight_decay, apart)
        steps = self.plan.steps * p.epochs
        self.schedule = build_schedule(
            self.optimizer, steps, max(1, round(steps * p.warmup_fraction))
        )
        self.average = ExponentialAverage(self.student, p.ema_decay) if p.ema_decay else None
        seed_generators(p.seed, self.rank)

    @property
    def plan(self) -> EpochPlan:
        """The data plan of the current epoch."""
        return self.config.plan(self.train_shards.manifest.sizes, self.epoch)

    @property
    def steps(self) -> int:
        """Steps of the run that are done."""
        return self.epoch * self.plan.steps + self.step

    @property
    def evaluated(self) -> VisualStudent:
        """The weights that are validated and saved: the average where there is one."""
        return self.average.module if self.average is not None else self.student  # type: ignore[return-value]

    @property
    def learning_rate(self) -> float:
        """At the first step of the current epoch."""
        return self.params.learning_rate * self.schedule.lr_lambdas[0](self.epoch * self.plan.steps)

    def resume(self) -> None:
        """Takes up the newest checkpoint, if there is one."""
        store = self.config.checkpoints
        if self.rank == 0:
            store.clean()
        # one rank looks, for machines may see a shared folder as it was a minute ago
        newest = broadcast_object(store.newest_name() if self.rank == 0 else None)
        if newest is None:
            self._fit_projection()
            return
        state = store.read(newest, self.device)
        self.epoch, self.step = state["epoch"], state["step"]
        self._saved = self.steps
        self.history = state["history"]
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in state["sums"].items()
        }
        self.trained.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            self.average.updates = state["average_updates"]
        if self.rank < len(state["generators"]):  # a rank that is new has its own seed
            restore_generators(state["generators"][self.rank])

    def _fit_projection(self) -> None:
        """Before the first step, where params ask for it."""
        if self.params.ridge_init is None:
            return
        steps = -(-FITTED // self.params.global_batch_size)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            stream = EpochStream(
                self.train_shards, self.plan, self.transform, self.rank, self.world
            )
            for batch in islice(BatchLoader(stream, 0), steps):
                pixels, teacher, _ = self._inputs(batch)
                yield from zip(
                    pixels.split(self.params.micro_batch_size),
                    teacher.split(self.params.micro_batch_size),
                    strict=True,
                )

        fit_projection(self.student, batches, self.params.ridge_init)
        if self.average is not None:
            self.average.module.load_state_dict(self.student.state_dict())

    def train_epoch(self) -> EpochMetrics:
        """What is left of the current epoch; returns the means of its loss terms, and the speed."""
        plan, first = self.plan, self.step
        stream = EpochStream(
            self.train_shards, plan, self.transform, self.rank, self.world, from_step=first
        )
        self.student.train()
        start, waited = time.perf_counter(), 0.0
        batches = epoch_loader(stream, self.config.dataloader_workers, pinned=self.device == "cuda")
        place = sum(self.shares[: self.rank])
        for batch, seconds in timed(batches):
            waited += seconds
            loss = self.train_step(batch)
            self.log.add(self.epoch, self.step, loss, keys_digest(batch.keys, place))
            self.step += 1
            if self.step < plan.steps and self._due():
                self.save()
        seconds = time.perf_counter() - start
        means = {name: value / plan.steps for name, value in self._sums.items()}
        row = {f"train_{name}": self._mean_over_ranks(value) for name, value in means.items()}
        return row | {
            "repeated_samples": plan.repeated,
            "images_per_s": (plan.steps - first) * plan.global_batch_size / seconds,
            "data_wait": waited / seconds,
        }

    def end_epoch(self, row: EpochMetrics) -> None:
        """Adds a row of history and makes a checkpoint."""
        self.history.append(row)
        self.epoch, self.step, self._sums = self.epoch + 1, 0, {}
        self.save()

    @torch.no_grad()
    def validate(self) -> EpochMetrics:
        """Means over the whole validation split, counted once over all ranks."""
        student = self.evaluated
        student.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        stream = EvaluationStream(
            self.val_shards, self.transform, VALIDATION_BATCH, self.rank, self.world
        )
        for batch in BatchLoader(stream, self.config.dataloader_workers):
            pixels, teacher, _ = self._inputs(batch)
            cosines = F.cosine_similarity(student(pixels).float(), teacher, dim=-1).cpu()
            sums += torch.tensor([cosines.double().sum(), len(cosines)])
        total, count = sum_over_ranks(sums.to(self.device)).tolist()
        return {"val_cosine": total / count, "val_loss": 1 - total / count}

    def save(self) -> None:
        """Writes a checkpoint; every rank calls this, and rank 0 writes."""
        self.log.write(self._saved)
        self._saved = self.steps
        generators = states_of_all_ranks()
        sums = {name: self._mean_over_ranks(value) for name, value in self._sums.items()}
        if self.rank:
            return
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "sums": sums,
            "model": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": generators,
            "student": self.evaluated.state_dict(),
        }
        if self.average is not None:
            state |= {
                "average": self.average.module.state_dict(),
                "average_updates": self.average.updates,
            }
        self.config.checkpoints.save(self.steps, state)

    def _due(self) -> bool:
        """Whether this is a step to save: it is its turn, or a machine is about to go."""
        if self.step % self.config.checkpoint_every == 0:
            return True
        return self.steps % NOTICE_EVERY == 0 and self.notice()

    def train_step(self, batch: Batch) -> float:
        """Moves the weights by one step; returns this rank's loss.

        Raises:
            KdeovError: The loss, or its gradient, is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.joined.backward(*self._inputs(batch))
        loss = terms["total"].item()
        if not math.isfinite(loss):
            raise self._stopped(loss, batch.keys)
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.params.max_grad_norm)
        if not math.isfinite(length := norm.item()):  # the same on all ranks
            raise self._stopped(length, batch.keys, "length of its gradient")
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.student)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.double()
        return loss

    def _stopped(self, value: float, keys: list[str], what: str = "loss") -> KdeovError:
        """The fault of a step, with all of its keys in a file."""
        name = f"stopped-rank-{self.rank}.json"
        good = self.config.checkpoints.newest
        stopped = {
            what: str(value),
            "epoch": self.epoch + 1,
            "step": self.step + 1,
            "keys": keys,
            "last_good_checkpoint": good,
        }
        self.config.run.write(name, json_text(stopped).encode())
        return KdeovError(
            f"the {what} is {value} in epoch {self.epoch + 1}, step {self.step + 1}, at the "
            f"images {', '.join(keys[:4])}... (all in {self.config.run.where(name)}); the last "
            f"good checkpoint is {good or 'none yet'}; lower distill.learning_rate, or look at "
            "these images"
        )

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        pixels, teacher, texts = (t.to(self.device, non_blocking=True) for t in batch[1:])
        pixels = self.transform.normalize(pixels).contiguous(memory_format=torch.channels_last)
        return pixels, teacher, texts

    def _mean_over_ranks(self, value: Tensor) -> float:
        return (sum_over_ranks(value.clone()) / self.world).item()


def timed(batches: BatchLoader) -> Iterator[tuple[Batch, float]]:
    """Batches, each with the seconds that it was waited for."""
    asked = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - asked
        asked = time.perf_counter()
