"""What a training run is given: plain values, that go to whichever machine trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.stage_params import DistillParams
from pipeline.data.epoch_plan import EpochPlan
from pipeline.data.paired_shards import PairedShards
from pipeline.storage.storage import Storage
from pipeline.training.checkpoints import CheckpointStore


@dataclass(frozen=True)
class TrainConfig:
    """All that the loop needs; plain values, so that it can be sent to workers.

    Attributes:
        params: The `distill` section.
        images: Folder of the image shards, with `train` and `val`.
        embeddings: Folder of the teacher shards.
        identities: Identity of the cache of each split.
        run: Where this run's checkpoints lie.
        use_gpu: See `pick_device`.
        dataloader_workers: Loader processes a rank.
        checkpoint_every: Steps between checkpoints; each epoch ends with one too.
        compile: Whether torch.compile makes the student faster.
        storage: Where the shards are (see `ShardFolder`).
    """

    params: DistillParams
    images: Path
    embeddings: Path
    identities: dict[str, dict[str, Any]]
    run: Storage
    use_gpu: bool | str = "auto"
    dataloader_workers: int = 0
    checkpoint_every: int = 500
    compile: bool = False
    storage: str | None = None

    def shards(self, split: str) -> PairedShards:
        """One split with its cache."""
        return PairedShards(
            self.images / split, self.embeddings / split, self.identities[split], self.storage
        )

    def plan(self, sizes: list[int], epoch: int) -> EpochPlan:
        """The data plan of an epoch, from the training shards' sizes."""
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
        """Where this run's state is kept."""
        return CheckpointStore(self.run / "checkpoints")
