"""One rank of distillation: its steps and its validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError
from kdeov.models.student import VisualStudent
from kdeov.training.distributed import sum_over_ranks
from kdeov.training.forward import RegionWeights
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.ridge_init import fit_projection
from pipeline.config.batch_sharing import check_sharing
from pipeline.data.batch import Batch
from pipeline.data.loader import BatchLoader, EpochStream, EvaluationStream, epoch_loader
from pipeline.data.paired_shards import PairedShards
from pipeline.data.step_inputs import StepInputs, step_inputs
from pipeline.runtime.device import check_compiler
from pipeline.runtime.prefetch import prefetched
from pipeline.training.config import SINGLE_TERMS, TrainConfig
from pipeline.training.rank import RankTrainer
from pipeline.training.region_cosines import RegionCosines
from pipeline.training.state import EpochMetrics, distillation_state

VALIDATION_BATCH = 64
RIDGE_INIT_SAMPLES = 16_384  # images from which the last linear map is fitted before training


class Trainer(RankTrainer[TrainConfig, Batch | StepInputs]):
    """A distillation.

    Args:
        config: What to train on what, and how.
        restart_due: See `RankTrainer`.

    Raises:
        KdeovError: Params and data do not fit together.
    """

    section: ClassVar[str] = "distill"

    def __init__(
        self, config: TrainConfig, restart_due: Callable[[], bool] = lambda: False
    ) -> None:
        p = config.params
        self.train_shards, self.val_shards = config.shards("train"), config.shards("val")
        super().__init__(config, self.train_shards.manifest.sizes, restart_due)
        check_workers(config, self.train_shards, self.world_size)
        self.transform = ImageTransform(size=p.image_size)
        if config.cluster.compile:
            check_compiler(self.device)
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
        self.grad_cache = GradCacheStep(
            self.student,
            loss,
            fusion_weight,
            p.micro_batch_size,
            self.shares,
            config.cluster.compile,
            RegionWeights(*region_weights),
        )
        self.start(distillation_state(self.student, loss, p, self._plan.steps))

    def initialize(self) -> None:
        """Fits the last linear map where params ask for it."""
        if self.params.ridge_init is None:
            return
        steps = -(-RIDGE_INIT_SAMPLES // self.params.global_batch_size)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            stream = EpochStream(
                self.train_shards, self.plan, self.transform, self.rank, self.world_size
            )
            for batch in islice(BatchLoader(stream, 0), steps):
                inputs = self.inputs(batch)
                yield from zip(
                    inputs.pixels.split(self.params.micro_batch_size),
                    inputs.teacher.split(self.params.micro_batch_size),
                    strict=True,
                )

        fit_projection(self.student, batches, self.params.ridge_init)
        if self.state.average is not None:
            self.state.average.module.load_state_dict(self.student.state_dict())

    def batches(self, from_step: int) -> Iterable[Batch | StepInputs]:
        """See `RankTrainer`."""
        stream = EpochStream(
            self.train_shards,
            self.plan,
            self.transform,
            self.rank,
            self.world_size,
            from_step=from_step,
            colors_on_device=self.device == "cuda",
        )
        workers = self.config.cluster.dataloader_workers
        return self._ahead(epoch_loader(stream, workers, pinned=self.device == "cuda"))

    @torch.no_grad()
    def validate(self) -> EpochMetrics:
        """Means over the whole validation split: `val_cosine` and `val_loss`, 1 - cosine, and
        those of its regions, where it has any (see `RegionCosines`).
        """
        student: Any = self.state.eval_model
        student.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        regions = RegionCosines(student, self.val_shards.num_regions)
        stream = EvaluationStream(
            self.val_shards, self.transform, VALIDATION_BATCH, self.rank, self.world_size
        )
        workers = self.config.cluster.dataloader_workers
        loader = BatchLoader(stream, workers, pinned=self.device == "cuda")
        for batch in self._ahead(loader):
            inputs = self.inputs(batch)
            regions.add(inputs.pixels, inputs.boxes, inputs.regions)
            found = student(inputs.pixels).float()
            cosines = F.cosine_similarity(found, inputs.teacher, dim=-1).cpu()
            sums += torch.tensor([cosines.double().sum(), len(cosines)])
        total, count = sum_over_ranks(sums.to(self.device)).tolist()
        row = {"val_cosine": total / count, "val_loss": 1 - total / count}
        return row | regions.means(self.device)

    def describe(self, row: EpochMetrics) -> str:
        """See `RankTrainer`."""
        return f"validation cosine {row['val_cosine']:.4f}"

    def train_step(self, batch: Batch | StepInputs) -> float:
        """Updates the weights once; returns this rank's loss.

        Raises:
            KdeovError: The loss, or its gradient, is not finite.
        """
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        step = (self.params.seed, state.epoch, state.step)
        terms = self.grad_cache.backward(*self.inputs(batch)[1:], seed=step)
        parameters = list(state.model.parameters())
        loss = self.clip_gradients(terms["total"], parameters, batch.keys)
        state.take_step(terms)
        return loss

    def inputs(self, batch: Batch | StepInputs) -> StepInputs:
        """A batch on the device of the step; one that is there already is returned as it is."""
        if isinstance(batch, StepInputs):
            return batch
        return step_inputs(batch, self.transform, self.device)

    def _ahead(self, loader: BatchLoader) -> Iterable[Batch | StepInputs]:
        """Batches of a loader; on a GPU, copied there one ahead."""
        return loader if self.device == "cpu" else prefetched(loader, self.inputs, self.device)


def check_workers(config: TrainConfig, shards: PairedShards, workers: int) -> None:
    """Raises where so many workers cannot share the training data.

    Raises:
        ConfigError: There are fewer parts of a step, or fewer images, than workers.
    """
    p = config.params
    check_sharing(p.global_batch_size, p.num_streams, p.micro_batch_size, workers)
    check_samples(len(shards), workers)


def check_samples(samples: int, workers: int) -> None:
    """Raises where there are fewer training images than workers.

    Raises:
        ConfigError: There are.
    """
    if samples < workers:
        raise ConfigError(
            f"{samples} training images are fewer than {workers} workers; add images or lower "
            "cluster.num_workers"
        )
