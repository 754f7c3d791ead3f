"""One rank of a training run: its steps, epochs, validation and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError, KdeovError
from kdeov.models.student import VisualStudent
from kdeov.training.distributed import (
    broadcast_object,
    get_rank,
    get_world_size,
    mean_over_ranks,
    sum_over_ranks,
)
from kdeov.training.forward import RegionWeights
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.ridge_init import fit_projection
from kdeov.training.rng import seed_rng
from pipeline.config.batch_sharing import check_sharing
from pipeline.data.epoch_plan import EpochPlan
from pipeline.data.loader import Batch, BatchLoader, EpochStream, EvaluationStream, epoch_loader
from pipeline.data.paired_shards import PairedShards
from pipeline.runtime.device import pick_device
from pipeline.storage.files import json_text
from pipeline.training.config import SINGLE_TERMS, TrainConfig
from pipeline.training.region_cosines import RegionCosines
from pipeline.training.state import EpochMetrics, TrainState
from pipeline.training.step_log import StepLog, keys_digest

VALIDATION_BATCH = 64
RESTART_CHECK_STEPS = 10  # steps between calls of `restart_due`
RIDGE_INIT_SAMPLES = 16_384  # images from which the last linear map is fitted before training


class Trainer:
    """A training run.

    Args:
        config: What to train on what, and how.
        restart_due: Returns, equally on all ranks, whether the workers are about to be restarted,
            for instance because a machine will be taken away. A checkpoint is then written.

    Attributes:
        state: All that the next step depends on.

    Raises:
        KdeovError: Params and data do not fit together.
    """

    def __init__(
        self, config: TrainConfig, restart_due: Callable[[], bool] = lambda: False
    ) -> None:
        self.config, self.params, self.restart_due = config, config.params, restart_due
        p = config.params
        self.rank, self.world_size = get_rank(), get_world_size()
        self.train_shards, self.val_shards = config.shards("train"), config.shards("val")
        check_workers(config, self.train_shards, self.world_size)
        self.device = pick_device(config.cluster.use_gpu)
        self.transform = ImageTransform(size=p.image_size)
        self.log = StepLog(config.run / "steps", self.device)
        torch.manual_seed(p.seed)
        self.student = VisualStudent(
            p.backbone, p.fusion, self.train_shards.dim, p.backbone_weights
        ).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if p.freeze_batch_norm:
            self.student.backbone.fix_statistics()
        if p.backbone_learning_rate == 0:
            self.student.backbone.freeze()
        weights = p.losses.model_dump()
        fusion_weight, *region_weights = map(weights.pop, SINGLE_TERMS)
        loss = FeatureAlignmentLoss(weights, p.feature_loss).to(self.device)
        self._plan = config.plan(self.train_shards.manifest.sizes, epoch=0)
        self.shares = self._plan.shares(self.world_size)
        self.grad_cache = GradCacheStep(
            self.student,
            loss,
            fusion_weight,
            p.micro_batch_size,
            self.shares,
            config.cluster.compile,
            RegionWeights(*region_weights),
        )
        self.state = TrainState(self.student, loss, p, self._plan.steps)
        self._saved_step = 0
        seed_rng(p.seed, self.rank)

    @property
    def plan(self) -> EpochPlan:
        """The data plan of the current epoch; made once an epoch, since it holds all shards."""
        if self._plan.epoch != self.state.epoch:
            self._plan = self.config.plan(self.train_shards.manifest.sizes, self.state.epoch)
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
            self._fit_projection()
            return
        self.state.load_state_dict(store.read(newest, self.device))
        self._saved_step = self.state.global_step

    def _fit_projection(self) -> None:
        """Fits the last linear map where params ask for it."""
        if self.params.ridge_init is None:
            return
        steps = -(-RIDGE_INIT_SAMPLES // self.params.global_batch_size)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            stream = EpochStream(
                self.train_shards, self.plan, self.transform, self.rank, self.world_size
            )
            for batch in islice(BatchLoader(stream, 0), steps):
                pixels, teacher, *_ = self._inputs(batch)
                yield from zip(
                    pixels.split(self.params.micro_batch_size),
                    teacher.split(self.params.micro_batch_size),
                    strict=True,
                )

        fit_projection(self.student, batches, self.params.ridge_init)
        if self.state.average is not None:
            self.state.average.module.load_state_dict(self.student.state_dict())

    def train_epoch(self) -> EpochMetrics:
        """Takes the remaining steps of the epoch.

        Returns:
            `train_` and the name of each loss term: its mean over the epoch; `train_total`;
            `repeated_samples`; `images_per_s`; and `data_wait`, the share of the time spent waiting
            for batches.
        """
        state, plan = self.state, self.plan
        first = state.step
        stream = EpochStream(
            self.train_shards, plan, self.transform, self.rank, self.world_size, from_step=first
        )
        self.student.train()
        start, waited = time.perf_counter(), 0.0
        workers = self.config.cluster.dataloader_workers
        batches = epoch_loader(stream, workers, pinned=self.device == "cuda")
        place = sum(self.shares[: self.rank])
        for batch, seconds in timed(batches):
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

    @torch.no_grad()
    def validate(self) -> EpochMetrics:
        """Means over the whole validation split: `val_cosine` and `val_loss`, 1 - cosine, and
        those of its regions, where it has any (see `RegionCosines`).
        """
        student = self.state.eval_model
        student.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        regions = RegionCosines(student, self.val_shards.num_regions)
        stream = EvaluationStream(
            self.val_shards, self.transform, VALIDATION_BATCH, self.rank, self.world_size
        )
        for batch in BatchLoader(stream, self.config.cluster.dataloader_workers):
            pixels, teacher, _, boxes, targets = self._inputs(batch)
            regions.add(pixels, boxes, targets)
            cosines = F.cosine_similarity(student(pixels).float(), teacher, dim=-1).cpu()
            sums += torch.tensor([cosines.double().sum(), len(cosines)])
        total, count = sum_over_ranks(sums.to(self.device)).tolist()
        row = {"val_cosine": total / count, "val_loss": 1 - total / count}
        return row | regions.means(self.device)

    def save(self) -> None:
        """Writes a checkpoint, and the log of the steps before it; a collective call."""
        self.log.write(self._saved_step)
        self._saved_step = self.state.global_step
        state = self.state.state_dict()
        if self.rank == 0:
            self.config.checkpoints.save(self._saved_step, state)

    def _checkpoint_due(self) -> bool:
        """Whether a checkpoint follows this step: at fixed steps, and before a restart."""
        if self.state.step % self.config.cluster.checkpoint_every == 0:
            return True
        return self.state.global_step % RESTART_CHECK_STEPS == 0 and self.restart_due()

    def train_step(self, batch: Batch) -> float:
        """Updates the weights once; returns this rank's loss.

        Raises:
            KdeovError: The loss, or its gradient, is not finite.
        """
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        step = (self.params.seed, state.epoch, state.step)
        terms = self.grad_cache.backward(*self._inputs(batch), seed=step)
        loss = terms["total"].item()
        if not math.isfinite(loss):
            raise self._diverged(loss, batch.keys)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), self.params.max_grad_norm)
        if not math.isfinite(length := norm.item()):  # the same on all ranks
            raise self._diverged(length, batch.keys, "length of its gradient")
        state.optimizer.step()
        state.schedule.step()
        if state.average is not None:
            state.average.update(self.student)
        state.add_terms(terms)
        return loss

    def _diverged(self, value: float, keys: list[str], what: str = "loss") -> KdeovError:
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
            f"checkpoint is {newest or 'none yet'}; lower distill.learning_rate, or check these "
            "images"
        )

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        pixels, *others = (t.to(self.device, non_blocking=True) for t in batch[1:])
        pixels = self.transform.normalize(pixels).contiguous(memory_format=torch.channels_last)
        teacher, texts, boxes, regions = others
        return pixels, teacher, texts, boxes, regions


def check_workers(config: TrainConfig, shards: PairedShards, workers: int) -> None:
    """Raises where so many workers cannot share the training data.

    Raises:
        ConfigError: There are fewer parts of a step, or fewer images, than workers.
    """
    p = config.params
    check_sharing(p.global_batch_size, p.num_streams, p.micro_batch_size, workers)
    if len(shards) < workers:
        raise ConfigError(
            f"{len(shards)} training images are fewer than {workers} workers; add images or lower "
            "cluster.num_workers"
        )


def timed(batches: BatchLoader) -> Iterator[tuple[Batch, float]]:
    """Batches, each with the seconds that the loop waited for it."""
    asked = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - asked
        asked = time.perf_counter()
