"""A teacher whose arithmetic is exact, so that its embeddings have the same bytes on every CPU.

All of its numbers are integers that float32 holds, and its layers only select among them: no
result depends on the order of a sum, on fused operations or on the width of a vector unit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.teachers.base import TeacherIdentity, TowerTeacher
from kdeov.text.base import TextEncoder, TextTower
from kdeov.weights.clip import import_clip
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard

DIM = 48  # squares of so many numbers below 512 add up to less than 2 ** 24
SIZE = 32
CONTEXT = 16

CAPTIONS = [
    ["a dog on a lawn", "Two dogs!"],
    ["un café — 一", "a very long caption" + " of many many words" * 6],
    ["a photo of a red circle."],
]


class ExactTeacher(TowerTeacher):
    """Selects pixels, or tokens: 48 integers below 512 an image or caption.

    In bfloat16, which holds integers up to 256, autocast rounds the larger ones to even.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name, self.weights_sha256 = "exact", "0" * 64
        self.transform = ImageTransform(size=SIZE)
        self.text = ExactText()
        self.visual = nn.Sequential(Quantize(), nn.Flatten(), selection(3 * SIZE * SIZE))
        self.requires_grad_(False)
        self.eval()

    def identity(self) -> TeacherIdentity:
        transform = self.transform.to_dict()
        return TeacherIdentity("exact", "exact", "0" * 64, "clip", CONTEXT, DIM, transform)


class Quantize(nn.Module):
    """CLIP's normalized pixels, within -1.8 and 2.2, to integers below 512."""

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels * 200).round()


class ExactText(TextTower):
    """CLIP's tokens modulo 509, repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.select = selection(DIM)
        self.logit_scale = torch.zeros([])

    @property
    def context_length(self) -> int:
        return CONTEXT

    @property
    def embed_dim(self) -> int:
        return DIM

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return import_clip().tokenize(list(texts), context_length=CONTEXT, truncate=True)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        return self.select((tokens % 509).float().repeat(1, DIM // CONTEXT))

    def save(self, folder: Path) -> None:
        raise TypeError("the exact teacher is never saved or loaded")

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        raise TypeError("the exact teacher is never saved or loaded")


def selection(width: int) -> nn.Linear:
    """A layer of which each output is one of `width` inputs."""
    layer = nn.Linear(width, DIM, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[torch.arange(DIM), torch.arange(DIM) * (width // DIM)] = 1
    return layer


def write_exact_images(folder: Path) -> tuple[ShardFolder, Shard]:
    """A shard of three images in PPM, which has no codec whose version could change a pixel."""
    images = ShardFolder(folder, None)
    return images, images.write("000000.tar", map(_sample, range(len(CAPTIONS))))


def ppm(number: int) -> bytes:
    """A smooth image with an edge, computed with integers."""
    width, height = 56 + 8 * number, 48
    y, x = np.mgrid[:height, :width]
    channels = (3 * x + number * y) % 256, (x * y // 9) % 256, 255 * (x > 2 * y)
    pixels = np.stack(channels, axis=-1).astype(np.uint8)
    return f"P6 {width} {height} 255\n".encode() + pixels.tobytes()


def _sample(number: int) -> dict[str, Any]:
    description = {"captions": CAPTIONS[number], "label": number, "source": f"exact/{number}"}
    key = f"image-{number}"
    return {"__key__": key, "jpg": ppm(number), "json": json.dumps(description).encode()}
