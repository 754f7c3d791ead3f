"""The configuration of a training run: plain values that can be sent to any worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config.execution_params import ClusterParams
from pipeline.config.stage_params import DistillParams
from pipeline.data.epoch_plan import EpochPlan
from pipeline.data.paired_shards import PairedShards
from pipeline.storage.storage import Storage
from pipeline.training.checkpoints import CheckpointStore

SINGLE_TERMS = ("fusion", "regions", "mosaic")  # loss terms beside those of `FeatureAlignmentLoss`


@dataclass(frozen=True)
class TrainConfig:
    """What to train on what, and where.

    Attributes:
        params: The `distill` section.
        images: Folder of the image shards, with `train` and `val`.
        embeddings: Folder of the teacher shards.
        identities: Identity of the cache of each split.
        run: Folder of this run's checkpoints and step log.
        cluster: The `cluster` section, which changes no number.
        storage: Where the shards are (see `ShardFolder`).
    """

    params: DistillParams
    images: Path
    embeddings: Path
    identities: dict[str, dict[str, Any]]
    run: Storage
    cluster: ClusterParams = field(default_factory=ClusterParams)
    storage: str | None = None

    def with_cluster(self, **changes: Any) -> TrainConfig:
        """A copy with some values of the `cluster` section changed."""
        return replace(self, cluster=self.cluster.model_copy(update=changes))

    def shards(self, split: str) -> PairedShards:
        """The images of a split with their embeddings."""
        return PairedShards(
            self.images / split, self.embeddings / split, self.identities[split], self.storage
        )

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
