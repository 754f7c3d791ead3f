"""The sections of `params.yaml` of one stage each, but for `teacher`, which has its own module."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from pipeline.config.batch_sharing import sharing_problem
from pipeline.config.schema import (
    AnyPath,
    ClassNames,
    Count,
    Flag,
    NonNegative,
    PlainName,
    Positive,
    Real,
    Section,
    Seed,
    Share,
    TemplateSet,
    WatchedData,
    Whole,
    section_error,
)
from pipeline.config.source_params import SOURCES, SourceSections

STRIDE = 32  # pixels of the image a location of a backbone's last feature map
MOSAIC_IMAGES = 4  # of the smallest mosaic
IMAGE_TERMS = ("feature", "affinity", "relation", "contrastive", "interactive")
MAX_SIDE = 4096  # pixels; an image of a larger side does not fit into memory


class PrepareParams(SourceSections):
    dataset: PlainName
    """Name of the data in metrics and reports."""
    source: str
    """Kind of source, whose part of this section must be given."""
    path: WatchedData
    """File or folder that the source reads; DVC watches it. For `image_folder`, `shards` and
    `parquet` also `s3://BUCKET/PREFIX`, or a file `NAME.address` that holds this address."""
    seed: Seed
    """Seed of generated images and of random splits."""
    samples_per_shard: Count
    """Images a shard."""
    max_image_side: Count | None
    """Longest side in pixels. Longer images are reduced, others keep their bytes where they can;
    null reduces none."""
    max_rejected: Share
    """Share of unusable inputs above which the stage fails."""

    @model_validator(mode="after")
    def _source_is_there(self) -> PrepareParams:
        if self.source not in SOURCES:
            raise section_error(f"source: choose from {', '.join(SOURCES)}, not {self.source!r}")
        if getattr(self, self.source) is None:
            example = f"{self.source}: {SOURCES[self.source].example}"
            raise section_error(f"{self.source} is missing; add to this section `{example}`")
        return self


class RegionParams(Section):
    """Smaller crops of training and validation images, which the teacher embeds too."""

    count: Whole
    """Regions of each image; 0 for none, as embeddings that were not made here need."""
    kind: Literal["grid", "random", "objects"]
    """`grid`, cells of grids; `random`; or `objects`, the annotated objects of the data with a
    margin, where there are any, then random ones. Held-out objects are never shown."""
    min_area: Annotated[Real, Field(gt=0, le=1)]
    """Smallest share of the image's area; annotated objects may be smaller."""
    max_area: Annotated[Real, Field(gt=0, le=1)]
    """Largest share of the image's area."""
    margin: Annotated[Real, Field(ge=0, le=2)]
    """Mean margin around annotated objects, as a share of their sides; it varies by half."""

    @model_validator(mode="after")
    def _range(self) -> RegionParams:
        if self.min_area > self.max_area:
            raise section_error(
                f"min_area: {self.min_area:g} is above max_area, {self.max_area:g}; swap them"
            )
        return self


class EmbedParams(Section):
    seed: Seed
    """Seed of the views."""
    views: Count
    """Views of each training image; validation and test images have the plain one."""
    crop_scale_min: Annotated[Real, Field(gt=0, le=1)]
    """Smallest share of the image's area that a crop shows."""
    color_jitter: Annotated[Real, Field(ge=0, lt=1)]
    """Strength of changes of brightness, contrast and saturation."""
    blur_prob: Share
    """Share of views that are blurred."""
    precision: Literal["float32", "bfloat16", "float16"]
    """Precision of the teacher's computation; embeddings are stored as float16 in any case."""
    decoder: Literal["cpu", "nvjpeg"] = "cpu"
    """`cpu` decodes and resizes images on CPU cores. `nvjpeg` does so on the GPU of the teacher,
    where there are too few cores for it; embeddings differ a little, and JPEGs alone are read."""
    regions: RegionParams
    """Regions that the teacher embeds too."""


class LossParams(Section):
    """Weights of the loss terms; a term of weight 0 is not computed."""

    feature: NonNegative
    """Weight of the distance between student and teacher embeddings."""
    affinity: NonNegative
    """Weight of the affinity loss between image and text similarities."""
    relation: NonNegative
    """Weight of the loss on similarities within a batch."""
    contrastive: NonNegative
    """Weight of the contrastive loss between images and captions."""
    interactive: NonNegative
    """Weight of the interactive contrastive loss of CLIP-KD."""
    fusion: NonNegative
    """Weight of the fusion loss of batches, which trains the fusion module alone, beside the
    student; `fusion_epochs` gives a better one."""
    regions: NonNegative
    """Weight of the distance between regions of the student's dense map and their cached
    embeddings (`embed.regions`)."""
    mosaic: NonNegative
    """Weight of the distance between the tiles of mosaics and the cached embeddings of the images
    that they show."""


def _known_backbone(name: str) -> str:
    """Checks the name of a backbone, as far as that is possible without building it."""
    if not re.fullmatch(r"yolo(v5|v8|11)[nsmlx]|timm:.+", name):
        raise ValueError(
            "choose yolov5, yolov8 or yolo11 with a size n, s, m, l or x (yolov8n), or timm:NAME"
        )
    return name


class DistillParams(Section):
    seed: Seed
    """Seed of initial weights and of the order of the data."""
    backbone: Annotated[str, AfterValidator(_known_backbone)]
    """`yolov5`, `yolov8` or `yolo11` with a size n, s, m, l or x; or `timm:` and a name of timm."""
    fusion: Literal["film", "cross_attention"]
    """Kind of fusion module, for re-ranking."""
    fusion_epochs: Whole
    """Passes over the training images in which the fusion module is fitted to the finished student;
    0 leaves it untrained."""
    backbone_weights: AnyPath | None
    """Pretrained weights of the backbone (.pt, .safetensors); null starts from random ones."""
    image_size: Annotated[int, Strict(), Field(ge=32, le=MAX_SIDE)]
    """Side of the student's input in pixels."""
    epochs: Count
    """Passes over the training images."""
    global_batch_size: Count
    """Images a step, over all workers."""
    micro_batch_size: Count
    """Images a forward pass; a worker's share of a step is a multiple of it. Batch norm sees one
    micro-batch at a time, so that numbers do not depend on how many workers there are."""
    num_streams: Count
    """Number of interleaved shard streams a step. Must divide `global_batch_size`."""
    shuffle_buffer: Count
    """Images, over all workers, that are held in memory and shuffled."""
    learning_rate: Positive
    """Peak learning rate."""
    backbone_learning_rate: NonNegative | None
    """Peak learning rate of the backbone alone; 0 freezes it, null takes `learning_rate`."""
    freeze_batch_norm: Flag
    """Whether the backbone's batch norms keep the statistics of the pretrained weights."""
    ridge_init: Positive | None
    """Strength of the ridge regression that fits the last linear map before training; null starts
    from random weights. See `kdeov.training.ridge_init`."""
    weight_decay: NonNegative
    """Weight decay of AdamW."""
    warmup_fraction: Share
    """Share of all steps in which the learning rate rises."""
    max_grad_norm: Positive
    """Norm to which gradients are clipped."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1)]
    """Decay of the weight average that is evaluated and saved; 0 keeps the plain weights."""
    feature_loss: Literal["cosine", "l2"]
    """Distance of the loss term `feature`."""
    losses: LossParams
    """Weights of the loss terms."""

    @model_validator(mode="after")
    def _fits_together(self) -> DistillParams:
        """Refuses values that would otherwise fail after hours of embedding."""
        if problem := sharing_problem(
            self.global_batch_size, self.num_streams, self.micro_batch_size
        ):
            raise section_error(problem)
        if not any(getattr(self.losses, name) for name in IMAGE_TERMS):
            raise section_error(
                f"losses: every weight is 0 of {', '.join(IMAGE_TERMS)}, without which no student "
                "learns; give feature a positive one"
            )
        if self.micro_batch_size == 1 and self.image_size <= STRIDE:
            raise section_error(
                f"micro_batch_size: 1 image of {self.image_size} pixels gives batch norm one value "
                f"a channel; use at least 2, or an image_size above {STRIDE}"
            )
        if self.losses.mosaic and self.micro_batch_size < MOSAIC_IMAGES:
            raise section_error(
                f"losses.mosaic: {self.micro_batch_size} images of a micro-batch make no mosaic; "
                f"use a micro_batch_size of at least {MOSAIC_IMAGES}, or set it to 0"
            )
        if self.backbone_weights is None and (
            self.freeze_batch_norm or self.backbone_learning_rate == 0
        ):
            raise section_error(
                "backbone_weights: null starts from random weights, which are not worth freezing; "
                "give a file, or set freeze_batch_norm to false and backbone_learning_rate to null"
            )
        return self


class ZeroShotParams(Section):
    templates: TemplateSet
    """Set of prompt templates of `kdeov.prompts`."""
    class_names: ClassNames | AnyPath | None
    """Names of classes in prompts, null leaving a class out: a mapping, or a JSON file that holds
    one. DVC watches a mapping; of a file, the results hold the digest."""
    bootstrap_samples: Count
    """Bootstrap samples of the 95% intervals."""


class LinearProbeParams(Section):
    C_grid: Annotated[list[Positive], Field(min_length=1)]
    """Values of C among which the validation split chooses."""
    bootstrap_samples: Count
    """Bootstrap samples of the 95% intervals."""


class RetrievalParams(Section):
    rerank: Whole
    """Number of first hits that fusion re-ranks, in a row of its own; 0 leaves the row out."""
    bootstrap_samples: Count
    """Bootstrap samples of the 95% intervals."""


class DetectionParams(Section):
    templates: TemplateSet
    """Set of prompt templates of `kdeov.prompts`, for the names of object classes."""
    proposals: Count
    """Boxes of an image that are compared with the classes, those of the highest objectness."""
    score_min: Share
    """Lower scores are no detections."""
    nms_iou: Share
    """Overlap (IoU) above which the lower score of a class is dropped."""
    max_detections: Count
    """Most detections of an image, over all classes; COCO has 100, LVIS 300."""
    crop_margin: Annotated[Real, Field(ge=0, le=10)]
    """Context of the teacher's crops of true boxes: added on each side, as a share of the box's."""
    bootstrap_samples: Count
    """Bootstrap samples of the 95% intervals."""


class ExportParams(Section):
    calibration_images: Annotated[int, Strict(), Field(ge=0, le=10_000)]
    """Training images with which the INT8 file is calibrated and compared; 0 leaves it out."""
    background_images: Annotated[int, Strict(), Field(ge=0, le=1_000_000)]
    """Training images whose embeddings the export keeps: `kdeov search` tells by them how rare a
    score is; 0 keeps none."""
    data_license: str | None
    """License of the images, for the card of the export; null where it is not recorded."""
    teacher_license: str | None
    """License of the teacher's weights, for the card; null takes what is known of OpenAI's."""


class EfficiencyParams(Section):
    threads: Count
    """CPU threads of the measurement."""
    batch_size: Count
    """Images a forward pass, where throughput is measured."""
    repeats: Count
    """Number of timed forward passes."""
    reference_size: Annotated[int, Strict(), Field(ge=32, le=MAX_SIDE, multiple_of=32)]
    """Side at which the student is timed against the reference, CLIP's ViT-B/32."""


class ReportParams(Section):
    examples: Count
    """Number of example images in the report."""
