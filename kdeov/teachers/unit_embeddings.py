"""Unit embeddings of images and texts by a teacher with towers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.teachers.base import TowerTeacher


def unit_image_embeddings(teacher: TowerTeacher, pixels: Tensor, precision: str) -> Tensor:
    """Embeds images.

    Args:
        teacher: A teacher with towers.
        pixels: uint8 [N, 3, size, size], on any device.
        precision: `float32`, or the dtype of autocast: `bfloat16`, `float16`.

    Returns:
        float32 unit embeddings [N, D], on the CPU.
    """
    device = next(teacher.parameters()).device
    with _autocast(device, precision):
        embeddings = teacher.encode_image(teacher.transform.normalize(pixels.to(device)))
    return F.normalize(embeddings.float(), dim=-1).cpu()


def unit_text_embeddings(teacher: TowerTeacher, texts: list[str], precision: str) -> Tensor:
    """Embeds N texts: float32 unit embeddings [N, D], on the CPU (see `unit_image_embeddings`)."""
    with _autocast(next(teacher.parameters()).device, precision):
        embeddings = teacher.encode_text(texts)
    return F.normalize(embeddings.float(), dim=-1).cpu()


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    mixed = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if mixed else None, enabled=mixed)
