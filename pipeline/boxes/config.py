"""The configuration of a training of boxes: plain values that can be sent to any worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.boxes.samples import BoxShards
from pipeline.config.sections.train_boxes import TrainBoxesParams
from pipeline.training.config import RunConfig


@dataclass(frozen=True)
class Vocabulary:
    """Texts that regions may look like.

    Attributes:
        embeddings: float32 [T, D], unit length.
        threshold: Cosine with any of them from which a region without a box is no background.
    """

    embeddings: np.ndarray
    threshold: float


@dataclass(frozen=True, kw_only=True)
class BoxConfig(RunConfig):
    """A training of boxes.

    Attributes:
        params: The section `train_boxes`.
        student: Folder of the student.
        classes: The classes whose boxes are learned.
        vocabulary: Texts that keep regions from becoming background, or None.
        foreground: See `kdeov.detection.losses.anchor_roles`.
    """

    params: TrainBoxesParams
    student: Path
    classes: list[str]
    vocabulary: Vocabulary | None = None
    foreground: bool = False

    def shards(self, split: str) -> BoxShards:
        """The images of a split with their boxes."""
        return BoxShards(ShardFolder(self.images / split, self.storage), self.classes)
