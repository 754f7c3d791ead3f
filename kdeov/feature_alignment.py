"""A plain distillation loop for notebooks: no Ray, no DVC, no cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.errors import ConfigError
from kdeov.models.model import KDEOVModel
from kdeov.teachers.clip import ClipTeacher
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import build_optimizer, build_schedule

logger = logging.getLogger(__name__)


def train_feature_alignment(
    model: KDEOVModel,
    dataloader: Iterable[Any],
    num_epochs: int = 10,
    learning_rate: float = 1e-4,
    device: str | torch.device | None = None,
    weights: dict[str, float] | None = None,
) -> list[dict[str, float]]:
    """Aligns a student with CLIP's features of the same images and with their captions.

    Args:
        model: Trained in place.
        dataloader: A sized iterable of `(images, texts)` or `(images, texts, teacher_embeddings)`:
            images as `KDEOVModel` takes them, a list of strings (or tokens), and [B, D] teacher
            embeddings of the images. Without the third, the image tower of `model.clip_model_name`
            is loaded and run on every batch.
        num_epochs: Passes over the dataloader.
        learning_rate: Peak of AdamW's cosine schedule, with 5% warm-up.
        device: Device to train on; the model's, by default.
        weights: Weights of the terms of `FeatureAlignmentLoss` and of `fusion`;
            feature 1, contrastive 0.1 and fusion 0.1 by default.

    Returns:
        The mean of every loss term, one mapping an epoch.

    Raises:
        ConfigError: The dataloader is empty, or `num_epochs` is 0.
        KdeovError: The teacher's weights cannot be read or downloaded.
    """
    weights = {"feature": 1.0, "contrastive": 0.1, "fusion": 0.1, **(weights or {})}
    fusion_weight = weights.pop("fusion")
    if device is not None:
        model.to(device)
    device = model.device
    loss = FeatureAlignmentLoss(weights).to(device)
    steps = len(dataloader) * num_epochs  # type: ignore[arg-type]
    if not steps:
        raise ConfigError("train_feature_alignment: the dataloader is empty, or num_epochs is 0")
    step = GradCacheStep(model.student, loss, fusion_weight)
    optimizer = build_optimizer(torch.nn.ModuleList([model.student, loss]), learning_rate, 0.05)
    schedule = build_schedule(optimizer, steps, warmup=max(1, steps // 20))
    teacher: ClipTeacher | None = None
    history = []
    for epoch in range(num_epochs):
        model.train()
        sums: dict[str, float] = {}
        for images, texts, *rest in dataloader:
            if not rest and teacher is None:
                teacher = ClipTeacher.load(model.clip_model_name, device)
            pixels = model.preprocess(images)
            target = rest[0].to(device) if rest else _teacher_embeddings(teacher, pixels)
            text = model.encode_text(texts)
            optimizer.zero_grad()
            terms = step.backward(pixels, target, text)
            torch.nn.utils.clip_grad_norm_(model.student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        history.append({name: value / len(dataloader) for name, value in sums.items()})  # type: ignore[arg-type]
        logger.info("epoch %d: %s", epoch, _line(history[-1]))
    model.eval()
    return history


def _teacher_embeddings(teacher: ClipTeacher | None, pixels: Tensor) -> Tensor:
    """The teacher's embeddings of pixels that are normalised for the student; both use CLIP's
    statistics.
    """
    assert teacher is not None
    size = teacher.transform.size
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return teacher.encode_image(pixels)


def _line(terms: dict[str, float]) -> str:
    order: Sequence[str] = sorted(terms, key=lambda name: name != "total")
    return ", ".join(f"{name} {terms[name]:.4f}" for name in order)
