"""The configurations of training runs: plain values that can be sent to any worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pipeline.config.execution_params import ClusterParams
from pipeline.config.stage_params import DistillParams
from pipeline.data.epoch_plan import EpochPlan
from pipeline.data.paired_shards import PairedShards
from pipeline.storage.storage import Storage
from pipeline.training.checkpoints import CheckpointStore

SINGLE_TERMS = ("fusion", "regions", "mosaic")  # loss terms beside those of `FeatureAlignmentLoss`


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What any training run is of, and where.

    Attributes:
        params: The section of params that says how to train.
        images: Folder of the image shards, with `train` and `val`.
        run: Folder of this run's checkpoints and step log.
        cluster: The `cluster` section, which changes no number.
        storage: Where the shards are (see `ShardFolder`).
    """

    params: Any
    images: Path
    run: Storage
    cluster: ClusterParams = field(default_factory=ClusterParams)
    storage: str | None = None

    def with_cluster(self, **changes: Any) -> Self:
        """A copy with some values of the `cluster` section changed."""
        return replace(self, cluster=self.cluster.model_copy(update=changes))

    def plan(self, sizes: list[int], epoch: int) -> EpochPlan:
        """The data plan of an epoch, from the sizes of the training shards in samples."""
        p = self.params
        return EpochPlan(
            sizes,
            p.seed,
            epoch,
            p.global_batch_size,
            p.num_streams,
            p.shuffle_buffer,
            p.micro_batch_size,
        )

    @property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints of this run."""
        return CheckpointStore(self.run / "checkpoints")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A distillation.

    Attributes:
        params: The `distill` section.
        embeddings: Folder of the teacher shards.
        identities: Identity of the cache of each split.
    """

    params: DistillParams
    embeddings: Path
    identities: dict[str, dict[str, Any]]

    def shards(self, split: str) -> PairedShards:
        """The images of a split with their embeddings."""
        return PairedShards(
            self.images / split, self.embeddings / split, self.identities[split], self.storage
        )
