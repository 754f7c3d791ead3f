"""The distillation loop: the same in this process, in Ray workers on one machine, and on a cluster.

It reads batches in the order of the data plan, and after every epoch validates, writes a checkpoint
and reports a row of history. Started again, it goes on after the last checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdeov.distributed import gather, sum_over_ranks, world
from kdeov.errors import KdeovError
from kdeov.fusion import fusion_loss
from kdeov.losses import FeatureAlignmentLoss
from kdeov.optim import ExponentialAverage, build_optimizer, build_schedule
from kdeov.student import VisualStudent
from kdeov.transform import ImageTransform
from pipeline.cache import PairedShards
from pipeline.checkpoints import CheckpointStore
from pipeline.device import autocast, pick_device
from pipeline.params import DistillParams
from pipeline.plan import check_batch, plan_epoch
from pipeline.stream import Batch, EvaluationStream, epoch_loader, loader

logger = logging.getLogger(__name__)

Row = dict[str, float]
Report = Callable[[Row], None]


@dataclass(frozen=True)
class TrainConfig:
    """All that the loop needs; plain values, so that it can be sent to workers.

    Attributes:
        params: The `distill` section.
        images: Folder of the image shards, with `train` and `val`.
        embeddings: Folder of the teacher shards.
        identities: Identity of the cache of each split.
        run: Folder of this run's checkpoints.
        use_gpu: See `pick_device`.
        loader_workers: Loader processes a rank.
    """

    params: DistillParams
    images: Path
    embeddings: Path
    identities: dict[str, dict[str, Any]]
    run: Path
    use_gpu: bool | str = "auto"
    loader_workers: int = 0

    def shards(self, split: str) -> PairedShards:
        """One split with its cache."""
        return PairedShards(self.images / split, self.embeddings / split, self.identities[split])


class DistillationStep(nn.Module):
    """Student and losses as one module, so that DDP sees every parameter in one forward pass."""

    def __init__(
        self, student: VisualStudent, loss: FeatureAlignmentLoss, fusion_weight: float
    ) -> None:
        super().__init__()
        self.student, self.loss, self.fusion_weight = student, loss, fusion_weight
        if not fusion_weight:
            student.fusion.requires_grad_(False)

    def forward(self, pixels: Tensor, teacher: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Loss terms of the joined batch of all ranks, of which this is one rank's share."""
        if self.fusion_weight:
            embedding, dense = self.student.with_dense(pixels)
        else:
            embedding = self.student(pixels)
        bank = gather(texts)
        terms = self.loss(gather(embedding.float()), gather(teacher), bank)
        if self.fusion_weight:
            rank = world()[0]
            own = torch.arange(rank * len(texts), (rank + 1) * len(texts), device=texts.device)
            terms["fusion"] = fusion_loss(self.student.fusion, dense.float(), texts, bank, own)
            terms["total"] = terms["total"] + self.fusion_weight * terms["fusion"]
        return terms


class Trainer:
    """State of a training run, and how it moves on by an epoch."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.params = config, config.params
        self.rank, self.world = world()
        check_batch(self.params.global_batch, self.world)
        self.device = pick_device(config.use_gpu)
        self.train_shards, self.val_shards = config.shards("train"), config.shards("val")
        self.transform = ImageTransform(size=self.params.image_size)
        torch.manual_seed(self.params.seed)
        losses = self.params.losses.model_dump()
        fusion_weight = losses.pop("fusion")
        student = VisualStudent(
            self.params.backbone,
            self.params.fusion,
            self.train_shards.dim,
            self.params.backbone_weights,
        )
        self.step = (
            DistillationStep(
                student, FeatureAlignmentLoss(losses, self.params.feature_loss), fusion_weight
            )
            .to(self.device)
            .to(memory_format=torch.channels_last)
        )
        self.step.to(memory_format=torch.channels_last)
        self.student = student
        steps = self.steps_per_epoch * self.params.epochs
        self.optimizer = build_optimizer(
            self.step, self.params.learning_rate, self.params.weight_decay
        )
        self.schedule = build_schedule(
            self.optimizer, steps, warmup=max(1, round(steps * self.params.warmup))
        )
        self.average = ExponentialAverage(student, self.params.ema) if self.params.ema else None
        self.store = CheckpointStore(config.run / "checkpoints")
        self.history: list[Row] = []
        self.model: nn.Module = self.step
        if self.world > 1:
            ids = [torch.cuda.current_device()] if self.device == "cuda" else None
            self.model = DistributedDataParallel(
                self.step, device_ids=ids, gradient_as_bucket_view=True
            )

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank."""
        sizes = self.train_shards.manifest.sizes
        return plan_epoch(sizes, 0, 0, self.params.global_batch, self.params.window).steps

    def resume(self) -> int:
        """Takes up the newest checkpoint; returns the number of epochs that are done."""
        if self.rank == 0:
            self.store.clean()
        state = self.store.latest(self.device)
        if state is None:
            return 0
        self.step.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            self.average.updates = state["average_updates"]
        self.history = state["history"]
        if self.rank == 0:
            logger.info("going on after epoch %d of %d", state["epoch"], self.params.epochs)
        return state["epoch"]

    def train_epoch(self, epoch: int) -> Row:
        """One pass over the training shards; returns the means of the loss terms and the speed."""
        plan, batches = epoch_loader(
            self.train_shards, self.transform, seed=self.params.seed, epoch=epoch,
            global_batch=self.params.global_batch, window=self.params.window,
            rank=self.rank, world=self.world, workers=self.config.loader_workers,
        )  # fmt: skip
        self.model.train()
        sums: dict[str, Tensor] = {}
        start = time.perf_counter()
        for batch in batches:
            with autocast(self.device):
                terms = self.model(*self._inputs(batch))
            total = terms["total"]
            if not torch.isfinite(total):
                raise KdeovError(
                    f"the loss is {total.item()} in epoch {epoch + 1}, at the pictures "
                    f"{', '.join(batch.keys[:4])}...; "
                    "lower distill.learning_rate, or look at these pictures"
                )
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(self.step.parameters(), self.params.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update(self.student)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        seconds = time.perf_counter() - start
        row = {f"train_{name}": (value / plan.steps).item() for name, value in sums.items()}
        return row | {"repeated_samples": plan.repeated, "images_per_s": len(plan.order) / seconds}

    @torch.no_grad()
    def validate(self) -> Row:
        """Means over the whole validation split, counted once over all ranks."""
        student = self.evaluated
        student.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        stream = EvaluationStream(self.val_shards, self.transform, 64, self.rank, self.world)
        for batch in loader(stream, 0):
            pixels, teacher, _ = self._inputs(batch)
            cosines = F.cosine_similarity(student(pixels).float(), teacher, dim=-1).cpu()
            sums += torch.tensor([cosines.double().sum(), len(cosines)])
        total, count = sum_over_ranks(sums.to(self.device)).tolist()
        return {"val_cosine": total / count, "val_loss": 1 - total / count}

    @property
    def evaluated(self) -> VisualStudent:
        """The weights that are validated and saved: the average where there is one."""
        return self.average.module if self.average is not None else self.student  # type: ignore[return-value]

    def save(self, epoch: int) -> None:
        """Writes a checkpoint; rank 0 alone calls this."""
        state = {
            "epoch": epoch,
            "model": self.step.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "history": self.history,
            "student": self.evaluated.state_dict(),
        }
        if self.average is not None:
            state |= {
                "average": self.average.module.state_dict(),
                "average_updates": self.average.updates,
            }
        self.store.save(epoch, state)

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        pixels = self.transform.normalise(batch.pixels.to(self.device, non_blocking=True))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return pixels, batch.teacher.to(self.device), batch.texts.to(self.device)


def train(config: TrainConfig, report: Report) -> None:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
        config: What to train on what.
        report: Called by every rank after every epoch with that epoch's row of history.

    Raises:
        KdeovError: The data do not fit, or the loss is no longer finite.
    """
    trainer = Trainer(config)
    done = trainer.resume()
    start = time.perf_counter()
    for epoch in range(done, config.params.epochs):
        learning_rate = float(trainer.schedule.get_last_lr()[0])
        row: Row = {"epoch": epoch + 1, "learning_rate": learning_rate, "workers": trainer.world}
        row.update(trainer.train_epoch(epoch))
        row.update(trainer.validate())
        trainer.history.append(row)
        if trainer.rank == 0:
            trainer.save(epoch + 1)
            left = (
                (time.perf_counter() - start)
                / (epoch + 1 - done)
                * (config.params.epochs - epoch - 1)
            )
            logger.info(
                "epoch %d of %d: loss %.4f, validation cosine %.4f, %.0f pictures/s, %.0f s left",
                epoch + 1, config.params.epochs, row["train_total"], row["val_cosine"],
                row["images_per_s"], left,
            )  # fmt: skip
        report(row)
