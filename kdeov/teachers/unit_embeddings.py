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
    return launch_images(teacher, pixels, precision).cpu()


def unit_text_embeddings(teacher: TowerTeacher, texts: list[str], precision: str) -> Tensor:
    """Embeds N texts: float32 unit embeddings [N, D], on the CPU (see `unit_image_embeddings`)."""
    return launch_texts(teacher, texts, precision).cpu()


def launch_images(teacher: TowerTeacher, pixels: Tensor, precision: str) -> Tensor:
    """`unit_image_embeddings` on the teacher's device; a GPU may still be computing them."""
    device = next(teacher.parameters()).device
    with _autocast(device, precision):
        embeddings = teacher.encode_image(teacher.transform.normalize(pixels.to(device)))
    return F.normalize(embeddings.float(), dim=-1)


def launch_texts(teacher: TowerTeacher, texts: list[str], precision: str) -> Tensor:
    """`unit_text_embeddings` on the teacher's device; a GPU may still be computing them."""
    with _autocast(next(teacher.parameters()).device, precision):
        embeddings = teacher.encode_text(texts)
    return F.normalize(embeddings.float(), dim=-1)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    mixed = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if mixed else None, enabled=mixed)
