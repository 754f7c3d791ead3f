"""The section `train_boxes` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from pipeline.config.batch_sharing import sharing_problem
from pipeline.config.schema import (
    Count,
    NonNegative,
    Positive,
    Real,
    Section,
    Seed,
    Share,
    TemplateSet,
    section_error,
)

NO_BOXES: dict[str, Any] = {
    "seed": 0, "image_size": 640, "epochs": 1, "global_batch_size": 1, "micro_batch_size": 1,
    "num_streams": 1, "shuffle_buffer": 1, "learning_rate": 1e-3, "weight_decay": 0.0,
    "warmup_fraction": 0.0, "max_grad_norm": 1.0, "ema_decay": 0.0, "mosaic": 0.0,
    "vocabulary": "captions", "ignore_quantile": None, "templates": "plain",
}  # fmt: skip
"""Values of `kind: none`, which nothing reads."""


class TrainBoxesParams(Section):
    kind: Literal["none", "trained", "pretrained"]
    """`trained`: neck and head are trained on boxes of base classes; `pretrained`: those of
    `distill.backbone_weights` are kept, where the student's trunk is still that of the file;
    `none`: the data has no boxes, and the other keys may be left out."""
    seed: Seed
    """Seed of initial weights, of the order of the data and of augmentation."""
    image_size: Annotated[int, Strict(), Field(ge=64, le=4096, multiple_of=32)]
    """Side of the letterboxed input in pixels, of training and of detection; a multiple of 32."""
    epochs: Count
    """Passes over the training images."""
    global_batch_size: Count
    """Images a step, over all workers."""
    micro_batch_size: Count
    """Images a forward pass; batch norm and loss see one micro-batch at a time."""
    num_streams: Count
    """Number of interleaved shard streams a step. Must divide `global_batch_size`."""
    shuffle_buffer: Count
    """Images, over all workers, that are held in memory, shuffled and joined to mosaics."""
    learning_rate: Positive
    """Peak learning rate."""
    weight_decay: NonNegative
    """Weight decay of AdamW."""
    warmup_fraction: Share
    """Share of all steps in which the learning rate rises."""
    max_grad_norm: Positive
    """Norm to which gradients are clipped."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1)]
    """Decay of the weight average that is evaluated and saved; 0 keeps the plain weights."""
    mosaic: Share
    """Share of training inputs that are mosaics of four images."""
    vocabulary: Literal["captions", "classes"]
    """Texts that a region without a box may look like: captions of the training images, or the
    names of all classes of the data."""
    ignore_quantile: Share | None
    """Share of the base objects of the val split that look less like the vocabulary than a region
    that is left out of the background; null makes all regions without a box background."""
    templates: TemplateSet
    """Set of prompt templates of `kdeov.prompts` with which the score is fitted."""

    @model_validator(mode="before")
    @classmethod
    def _none_needs_no_values(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "none":
            return {**NO_BOXES, **values}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> TrainBoxesParams:
        if problem := sharing_problem(
            self.global_batch_size, self.num_streams, self.micro_batch_size, section="train_boxes"
        ):
            raise section_error(problem)
        return self
