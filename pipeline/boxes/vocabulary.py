"""Texts that regions without boxes may look like, and how alike is enough."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F

from kdeov.data.transform import ImageTransform
from kdeov.errors import ConfigError
from kdeov.models.model import KDEOVModel
from pipeline.boxes.config import BoxConfig, Vocabulary
from pipeline.boxes.samples import Census
from pipeline.boxes.stream import BoxEvaluationStream

logger = logging.getLogger(__name__)

MAX_IMAGES = 1000  # of the val split, on which the threshold is chosen
TEXT_BATCH = 256


@torch.no_grad()
def build_vocabulary(
    config: BoxConfig, model: KDEOVModel, census: Census, classes: list[str]
) -> Vocabulary | None:
    """The vocabulary that params ask for. Its threshold is a quantile of how much the base objects
    of the val split look like it: of the largest cosine of each with any of the texts.

    Args:
        config: Of the training.
        model: The student with its text encoder.
        census: Of the training images; its captions are taken.
        classes: Names of all classes of the data.

    Raises:
        ConfigError: Captions are asked for and there are none.
    """
    p = config.params
    if p.ignore_quantile is None:
        return None
    texts = census.captions
    if p.vocabulary == "classes":
        embeddings = model.text_encoder.class_embeddings(classes, p.templates)
    else:
        if not texts:
            raise ConfigError(
                "train_boxes.vocabulary is captions, and these images have none; set it to "
                "classes, or train_boxes.ignore_quantile to null"
            )
        parts = [texts[n : n + TEXT_BATCH] for n in range(0, len(texts), TEXT_BATCH)]
        embeddings = torch.cat([model.encode_text(part) for part in parts])
    alike = _likeness(config, model, embeddings.float().to(model.device))
    threshold = float(np.quantile(alike, p.ignore_quantile)) if len(alike) else 1.0
    logger.info(
        "vocabulary of %d %s; a region without a box is no background from cosine %.3f on, which "
        "%.0f%% of %d base objects reach",
        len(embeddings), p.vocabulary, threshold,
        100 * (1 - p.ignore_quantile), len(alike),
    )  # fmt: skip
    return Vocabulary(embeddings.float().cpu().numpy(), threshold)


def _likeness(config: BoxConfig, model: KDEOVModel, texts: torch.Tensor) -> np.ndarray:
    """The largest cosine of each base object of the val split with any of the texts."""
    side, student = config.params.image_size, model.student
    transform = ImageTransform(size=side)
    found = [np.empty(0)]
    for number, (sample, fit, pixels) in enumerate(BoxEvaluationStream(config.shards("val"), side)):
        if number >= MAX_IMAGES:
            break
        if not len(sample.boxes):
            continue
        boxes = torch.from_numpy(fit.to_square(sample.boxes)).float().to(model.device)
        inputs = transform.normalize(pixels.to(model.device))[None]
        regions = F.normalize(student.encode_regions(inputs, boxes[None])[0], dim=-1)
        found.append((regions @ texts.T).amax(1).cpu().numpy())
    return np.concatenate(found)
