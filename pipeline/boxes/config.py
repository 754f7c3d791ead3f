"""The configuration of a training of boxes: plain values that can be sent to any worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.boxes.samples import BoxShards
from pipeline.config.execution_params import ClusterParams
from pipeline.config.sections.train_boxes import TrainBoxesParams
from pipeline.data.epoch_plan import EpochPlan
from pipeline.storage.storage import Storage
from pipeline.training.checkpoints import CheckpointStore


@dataclass(frozen=True)
class Vocabulary:
    """Texts that regions may look like.

    Attributes:
        embeddings: float32 [T, D], unit length.
        threshold: Cosine with any of them from which a region without a box is no background.
    """

    embeddings: np.ndarray
    threshold: float


@dataclass(frozen=True)
class BoxConfig:
    """What to train on what, and where.

    Attributes:
        params: The section `train_boxes`.
        images: Folder of the image shards, with `train` and `val`.
        student: Folder of the student.
        classes: The classes whose boxes are learned.
        run: Folder of this run's checkpoints and step log.
        cluster: The `cluster` section, which changes no number.
        storage: Where the shards are (see `ShardFolder`).
        vocabulary: Texts that keep regions from becoming background, or None.
        foreground: See `kdeov.detection.losses.anchor_roles`.
    """

    params: TrainBoxesParams
    images: Path
    student: Path
    classes: list[str]
    run: Storage
    cluster: ClusterParams = field(default_factory=ClusterParams)
    storage: str | None = None
    vocabulary: Vocabulary | None = None
    foreground: bool = False

    def shards(self, split: str) -> BoxShards:
        """The images of a split with their boxes."""
        return BoxShards(ShardFolder(self.images / split, self.storage), self.classes)

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
