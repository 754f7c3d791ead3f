"""Sizes of the measurements, and the params that they run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.source_params import CaptionsCsvParams
from pipeline.config.stage_params import (
    DistillParams,
    EmbedParams,
    LossParams,
    PrepareParams,
    RegionParams,
)
from pipeline.data.epoch_plan import EpochPlan

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class PlanSize:
    """A large run; the defaults are a billion images on 1,024 GPUs.

    Attributes:
        samples: Samples an epoch.
        ranks: Number of ranks.
        global_batch_size: Samples a step.
        num_streams: Sequential readers, over all ranks.
        buffer: Samples of the shuffle buffers of all ranks.
    """

    samples: int = 1_000_000_000
    ranks: int = 1_024
    global_batch_size: int = 65_536
    num_streams: int = 8_192
    buffer: int = 4_194_304

    def plan(self, sizes: Sequence[int]) -> EpochPlan:
        """Plans the first epoch, from the number of samples in each shard."""
        return EpochPlan(sizes, 0, 0, self.global_batch_size, self.num_streams, self.buffer)


@dataclass(frozen=True)
class BenchSizes:
    """Sizes of `kdeov bench data`; the defaults give steady figures in a few minutes.

    Attributes:
        teacher: Arguments of `clip.model.CLIP`, those of ViT-B/32 by default; the second is the
            resolution, at which the student is trained too.
        prepare_images: Images that one repeat prepares.
        prepare_shards: Shards that workers on Ray make in one repeat; 0 leaves Ray out.
        embed_views: Views that one repeat embeds.
        embed_batch: Views a forward pass of the teacher.
        read_samples: Samples that one repeat reads.
        render_images: Images that one repeat renders.
        shard_samples: Samples of the shard amid which reading begins.
        step_batch: Images a training step.
        steps: Training steps that are measured.
        epoch_images: Images of an epoch in which `data_wait` is measured.
        epochs: Epochs of that measurement.
        plan_samples: Samples of the epoch that is planned.
        repeats: Repeats of preparing, embedding, reading, rendering and planning.
    """

    teacher: tuple[int, ...] = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    prepare_images: int = 256
    prepare_shards: int = 64
    embed_views: int = 96
    embed_batch: int = 16
    read_samples: int = 2000
    render_images: int = 64
    shard_samples: int = 10_000
    step_batch: int = 16
    steps: int = 8
    epoch_images: int = 960
    epochs: int = 3
    plan_samples: int = 1_000_000
    repeats: int = 8

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.teacher[0]

    @property
    def image_size(self) -> int:
        """Side of the images of teacher and student, pixels."""
        return self.teacher[1]


@dataclass(frozen=True)
class RunSizes:
    """Sizes of `kdeov bench run`; the defaults take some minutes.

    Attributes:
        backbone: Of the student; see `kdeov.models.backbone`.
        dim: Width of the student's embeddings.
        image_size: Side of the images of all towers, pixels.
        references: Names of open_clip's architectures, each with the number of times that the
            student must be faster.
        repeats: Rounds of forward passes.
        starts: Processes of each kind.
        embed_images: Images of the folder that is embedded.
        embed_repeats: Times that it is embedded.
    """

    backbone: str = "yolov8n"
    dim: int = 512
    image_size: int = 224
    references: tuple[tuple[str, float], ...] = (("ViT-B-32", 18), ("MobileCLIP2-S0", 8))
    repeats: int = 20
    starts: int = 5
    embed_images: int = 300
    embed_repeats: int = 3


@dataclass(frozen=True)
class SearchSizes:
    """Sizes of `kdeov bench search`; the defaults take some minutes.

    Attributes:
        rows: Of the index that is searched.
        dim: Width of embeddings.
        searches: Searches of these rows.
        image_size: Side of the student's images, pixels.
        images: Images of the folder that is indexed.
        known_images: Images of the folder that is indexed a second time, and searched.
        repeats: Rounds of indexing.
        starts: Processes that search.
    """

    rows: int = 1_000_000
    dim: int = 512
    searches: int = 15
    image_size: int = 224
    images: int = 2000
    known_images: int = 10_000
    repeats: int = 3
    starts: int = 5


@dataclass(frozen=True)
class ClusterSizes:
    """Sizes of `kdeov bench cluster`; the defaults take some minutes.

    Attributes:
        image_size: Side of the student's images, pixels.
        micro_batch_size: Images a forward pass; a step has two, on one rank or on two.
        dim: Width of the embedding space.
        steps: Steps an epoch.
        epochs: Epochs of a training run; the first one is not counted.
        rounds: Runs of each way of training.
        kill_after: Steps after which a worker is killed.
        num_images: Images over which the costs of one are averaged.
        plan: Size of the simulated run.
    """

    image_size: int = 224
    micro_batch_size: int = 32
    dim: int = 512
    steps: int = 6
    epochs: int = 4
    rounds: int = 2
    kill_after: int = 2
    num_images: int = 1024
    plan: PlanSize = PlanSize()

    @property
    def global_batch_size(self) -> int:
        """Images a step."""
        return 2 * self.micro_batch_size


def cluster_params(sizes: ClusterSizes, epochs: int = 1) -> DistillParams:
    """Params of a student whose ranks exchange gradients and statistics alone: one rank then has
    exactly the work of two, in two micro-batches. Coupled losses would cost it another forward
    pass.
    """
    plain = distill_params(BenchSizes(step_batch=sizes.global_batch_size, epochs=epochs))
    return plain.model_copy(
        update={
            "image_size": sizes.image_size,
            "micro_batch_size": sizes.micro_batch_size,
            "num_streams": 16,
        }
    )


def captions_csv_params(path: Path) -> PrepareParams:
    """The section `prepare` for images with a table of captions.

    Args:
        path: Folder of `images` and `captions.csv`.
    """
    section = CaptionsCsvParams(
        images="images",
        table="captions.csv",
        image_column="image",
        caption_column="caption",
        label_column=None,
        val=0.1,
        test=0.1,
    )
    return PrepareParams(
        dataset="bench",
        source="captions_csv",
        path=path,
        seed=0,
        samples_per_shard=500,
        max_image_side=640,
        max_rejected=0,
        captions_csv=section,
    )


def embed_params(views: int, precision: Precision = "float32") -> EmbedParams:
    """The section `embed`, with so many views a training image."""
    return EmbedParams(
        seed=0,
        views=views,
        crop_scale_min=0.6,
        color_jitter=0.15,
        blur_prob=0.2,
        precision=precision,
        regions=RegionParams(count=0, kind="random", min_area=0.028, max_area=0.5, margin=0.2),
    )


def distill_params(sizes: BenchSizes, contrastive: float = 0.0) -> DistillParams:
    """The section `distill`, with images of the teacher's size.

    Args:
        sizes: Image size, batch size and epochs.
        contrastive: Weight of the loss that needs captions.
    """
    return DistillParams(
        seed=0,
        backbone="yolov8n",
        fusion="film",
        fusion_epochs=0,
        backbone_weights=None,
        image_size=sizes.image_size,
        epochs=sizes.epochs,
        global_batch_size=sizes.step_batch,
        micro_batch_size=sizes.step_batch,
        num_streams=sizes.step_batch,
        shuffle_buffer=4 * sizes.step_batch,  # so that all steps read data, not the first alone
        learning_rate=2e-3,
        backbone_learning_rate=None,
        freeze_batch_norm=False,
        ridge_init=None,
        weight_decay=0.05,
        warmup_fraction=0.1,
        max_grad_norm=1.0,
        ema_decay=0.0,
        feature_loss="cosine",
        losses=LossParams(
            feature=1,
            affinity=0,
            relation=0,
            contrastive=contrastive,
            interactive=0,
            fusion=0,
            regions=0,
            mosaic=0,
        ),
    )
