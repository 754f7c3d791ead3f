"""Fusion fitted to a finished student, for re-ranking.

A search re-ranks the images that are nearest to a text, so these are the negatives that the module
has to learn from. A training batch hardly holds any of them: of thousands of images, a text's 60
nearest lie in other batches. So the module is trained when the student is finished and its
features are known for all images: each text against its own image and some of the images that the
index finds for it (hard negatives, as in ANCE: Xiong et al., 2021, arXiv:2007.00808).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.errors import DataError
from kdeov.models.fusion import CrossModalFusionModule, fusion_scores
from kdeov.training.optim import build_optimizer, build_schedule

TEXTS_A_STEP = 64
NEAREST = 60  # images of a text among which its negatives are drawn
NEGATIVES = 12  # of a text in a step
TEMPERATURE = 0.05
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.1
SAME_TEXT = 0.9
SAME_CAPTION = 0.9995  # cosine above which two captions are the same, in half precision


class FusionData(NamedTuple):
    """The features of N images and their M captions.

    Attributes:
        dense: [N, D, h, w], the student's dense maps, of any precision.
        embedding: [N, D], unit embeddings of the images, as an index holds them.
        texts: [M, D], the teacher's unit embeddings of captions.
        image_of_text: [M], number of the image that each caption describes, in rising order.
    """

    dense: Tensor
    embedding: Tensor
    texts: Tensor
    image_of_text: Tensor


def fit_fusion(
    fusion: CrossModalFusionModule,
    data: FusionData,
    epochs: int,
    seed: int = 0,
    on_step: Callable[[], object] = lambda: None,
    same_text: float = SAME_TEXT,
) -> list[float]:
    """Trains the fusion module in place, and nothing else.

    The loss is InfoNCE (van den Oord et al., 2018, arXiv:1807.03748) of a text's own image against
    `NEGATIVES` of the `NEAREST` images that the index finds for it. Images that the teacher says
    the text describes too are no negatives.

    Args:
        fusion: The module; left in evaluation mode.
        data: Features of the training images, on the device of the module.
        epochs: Passes over the images; each takes one caption of every image.
        seed: Seed of captions and negatives.
        on_step: Called after each step.
        same_text: Quantile of the teacher's cosines of a step's texts with the captions of their
            candidates, above which a candidate is no negative; 1 drops the same captions alone.

    Returns:
        The mean loss of each epoch.

    Raises:
        DataError: There are fewer than two images, one has no caption, or the loss is not finite.
    """
    images = len(data.dense)
    if images < 2:
        raise DataError("1 image has no negatives for fusion; set distill.fusion_epochs to 0")
    rng = torch.Generator().manual_seed(seed)
    captions = _captions_of(data.image_of_text, images)
    steps = steps_of(images)
    fusion.train().requires_grad_(True)
    optimizer = build_optimizer(fusion, LEARNING_RATE, WEIGHT_DECAY)
    schedule = build_schedule(optimizer, epochs * steps, max(1, int(WARMUP * epochs * steps)))
    losses = []
    for _ in range(epochs):
        total = 0.0
        for own in torch.randperm(images, generator=rng).tensor_split(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(fusion, data, captions, own, same_text, rng)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(own)
            on_step()
        losses.append(total / images)
        if not math.isfinite(total):
            raise DataError(
                f"the loss of fusion is {total} in epoch {len(losses)}; set "
                "distill.fusion_epochs to 0 or check the student"
            )
    fusion.eval()
    return losses


def steps_of(images: int) -> int:
    """Steps of an epoch over so many images."""
    return -(-images // TEXTS_A_STEP)


def _captions_of(image_of_text: Tensor, images: int) -> Tensor:
    """Numbers of the captions of each image, [N, C]; those with fewer than C repeat theirs."""
    counts = image_of_text.bincount(minlength=images)
    if not counts.all():
        raise DataError("an image has no caption; set distill.fusion_epochs to 0")
    turns = torch.arange(int(counts.max()), device=counts.device) % counts[:, None]
    return (counts.cumsum(0) - counts)[:, None] + turns


def _loss(
    fusion: CrossModalFusionModule,
    data: FusionData,
    captions: Tensor,
    own: Tensor,
    same_text: float,
    rng: torch.Generator,
) -> Tensor:
    """The mean loss of one caption of each of the images `own` [B]."""
    device = data.texts.device
    numbers = captions[own.to(device)]
    turns = torch.randint(captions.shape[1], (len(own), 1), generator=rng).to(device)
    texts = data.texts[numbers.gather(1, turns)[:, 0]]
    negatives, wrong = _negatives(data, captions, texts, own.to(device), same_text, rng)
    candidates = torch.cat([own[:, None].to(device), negatives], dim=1)
    maps = data.dense[candidates.flatten()].to(texts.dtype)
    pairs = texts.repeat_interleave(candidates.shape[1], dim=0)[:, None]
    scores = fusion_scores(fusion, maps, pairs).view(candidates.shape) / TEMPERATURE
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(wrong, float("-inf"))], dim=1)
    return F.cross_entropy(scores, torch.zeros(len(own), dtype=torch.long, device=device))


def _negatives(
    data: FusionData,
    captions: Tensor,
    texts: Tensor,
    own: Tensor,
    same_text: float,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Negatives [B, K] of texts [B, D], and which of them the texts describe too."""
    images = len(data.dense)
    cosines = texts @ data.embedding.T
    cosines.scatter_(1, own[:, None], -2.0)
    nearest = cosines.topk(min(NEAREST, images - 1), dim=1).indices
    draws = torch.rand(nearest.shape, generator=rng).topk(min(NEGATIVES, images - 1), dim=1)
    negatives = nearest.gather(1, draws.indices.to(nearest.device))
    likeness = torch.einsum("bkcd,bd->bkc", data.texts[captions[negatives]], texts).amax(dim=2)
    return negatives, likeness > min(SAME_CAPTION, likeness.quantile(same_text).item())
