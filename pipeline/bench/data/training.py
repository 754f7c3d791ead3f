"""Training steps from the cache against training steps with the teacher in the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.unit_embeddings import unit_image_embeddings, unit_text_embeddings
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import cache_identity, read_teacher_identity
from pipeline.bench.figures import Figure
from pipeline.bench.fixtures import photographs, write_images
from pipeline.bench.sizes import BenchSizes, distill_params, embed_params
from pipeline.config.execution_params import ClusterParams
from pipeline.data.batch import Batch, caption_of_epoch
from pipeline.data.loader import EpochStream, epoch_loader
from pipeline.data.paired_shards import PairedShards
from pipeline.embedding.embed import write_teacher_shards
from pipeline.evaluation.shared.timing import interleaved, median_ratio
from pipeline.storage.storage import open_storage
from pipeline.teachers.load import load_towers
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer


def step_figures(folder: Path, teacher: Path, sizes: BenchSizes) -> list[Figure]:
    """Measures `step_speedup_images`, `step_speedup_captions` and `loss_difference`.

    Each step reads and decodes its images and then trains, all on one core. With the teacher in
    the loop, the teacher embeds the batch in between, and everything else is the same.

    Args:
        folder: Folder of shards and the run.
        teacher: Folder of the teacher.
        sizes: Sizes of the measurements.
    """
    images, embeddings = folder / "images", folder / "embeddings"
    for split in SPLITS:
        # and one step to warm up
        count = sizes.step_batch * (sizes.steps + 1) if split == "train" else 1
        write_images(images / split, photographs(), count, captions=1)
    params = embed_params(views=1)
    cluster = ClusterParams(mode="inline", use_gpu=False, embed_batch=sizes.embed_batch)
    write_teacher_shards(params, cluster, images, teacher, embeddings)
    found = read_teacher_identity(teacher)
    identities = {split: cache_identity(found, params, split) for split in SPLITS}
    live = load_towers(teacher)

    def config(contrastive: float) -> TrainConfig:
        distill = distill_params(sizes, contrastive)
        return TrainConfig(
            params=distill,
            images=images,
            embeddings=embeddings,
            identities=identities,
            run=open_storage(str(folder / "run")),
            cluster=cluster,
        )

    alone, both = config(contrastive=0), config(contrastive=1)
    live_images = _Run(alone, LiveImages(live))
    live_captions = _Run(both, LiveCaptions(live, both.shards("train")))
    cached_images = _Run(alone, copy_to=live_images)
    cached_captions = _Run(both, copy_to=live_captions)
    torch.set_num_threads(1)
    times = interleaved(
        {
            "live images": live_images,
            "images": cached_images,
            "live captions": live_captions,
            "captions": cached_captions,
        },
        sizes.steps,
    )
    differences = [
        abs(ours - theirs)
        for run, other in ((cached_images, live_images), (cached_captions, live_captions))
        for ours, theirs in zip(run.losses, other.losses, strict=True)
    ]
    return [
        Figure(
            "step_speedup_images",
            median_ratio(times["live images"], times["images"]),
            8,
            "against the image tower in the loop",
        ),
        Figure(
            "step_speedup_captions",
            median_ratio(times["live captions"], times["captions"]),
            12,
            "against both towers in the loop",
        ),
        Figure(
            "loss_difference",
            max(differences),
            1e-3,
            f"largest of {len(differences)} steps from equal weights",
            at_most=True,
        ),
    ]


class LiveImages:
    """Replaces a batch's cached image embeddings by those of a live teacher.

    Args:
        teacher: Embeds the views of a batch.
    """

    def __init__(self, teacher: TowerTeacher) -> None:
        self.teacher = teacher

    def __call__(self, batch: Batch) -> Batch:
        return batch._replace(teacher=unit_image_embeddings(self.teacher, batch.pixels, "float32"))


class LiveCaptions(LiveImages):
    """Replaces a batch's cached caption embeddings too.

    Args:
        teacher: Embeds the views of a batch, and a caption of each image.
        shards: Source of the captions.
    """

    def __init__(self, teacher: TowerTeacher, shards: PairedShards) -> None:
        super().__init__(teacher)
        self.captions = {sample.key: sample.captions for sample in shards}

    def __call__(self, batch: Batch) -> Batch:
        captions = [self.captions[key] for key in batch.keys]
        texts = [
            texts[caption_of_epoch(key, 0, len(texts))]
            for key, texts in zip(batch.keys, captions, strict=True)
        ]
        embeddings = unit_text_embeddings(self.teacher, texts, "float32")
        return super().__call__(batch)._replace(texts=embeddings)


class _Run:
    """A training run; each call takes one step.

    Args:
        config: Config of the run.
        live: Changes a batch before the step; None trains on the cache.
        copy_to: Run that gets the weights after each step, so that a difference in losses comes
            from one step and not from earlier ones.
    """

    def __init__(
        self,
        config: TrainConfig,
        live: Callable[[Batch], Batch] | None = None,
        copy_to: _Run | None = None,
    ) -> None:
        self.trainer, self.live, self.copy_to = Trainer(config), live, copy_to
        trainer = self.trainer
        stream = EpochStream(trainer.train_shards, trainer.plan, trainer.transform)
        self.batches = iter(epoch_loader(stream, workers=0))
        self.losses: list[float] = []

    def __call__(self) -> None:
        batch = next(self.batches)
        if self.live is not None:
            batch = self.live(batch)
        self.losses.append(self.trainer.train_step(batch))
        if self.copy_to is not None:
            self.copy_to.trainer.state.model.load_state_dict(self.trainer.state.model.state_dict())
