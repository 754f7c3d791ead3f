"""Small exported students, for tests of the export and of whatever reads its folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.detection.detector import Detector
from kdeov.detection.head import BoxHead
from kdeov.detection.scores import ScoreParams
from kdeov.export.files import ExportImages, ExportInfo, export_model
from kdeov.models.model import KDEOVModel
from kdeov.models.student import VisualStudent
from kdeov.text.base import TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.table import PrecomputedTextEncoder
from kdeov.weights.clip import import_clip
from tests.helpers.shared import made_once

SIZE, DIM = 64, 32
BOX_SIZE = 96  # pixels of the box head's images
TABLE_TEXTS = ("a photo of a cat", "a photo of a dog", "a red ball", "café au lait")


def write_export(
    folder: Path,
    text: Literal["tower", "table"] = "tower",
    backbone: str = "yolov8n",
    boxes: bool = False,
) -> KDEOVModel:
    """Writes the export of a small student with random weights; made once, as it takes 20 s of a
    core, and copied.

    Args:
        folder: Where to.
        text: Whether its texts are embedded by a tower or looked up.
        backbone: See `LightweightVisualBackbone`.
        boxes: Whether it has a box head, that of `small_detector`.

    Returns:
        The student, to compare with.
    """
    with one_thread():
        model = small_model(text, backbone)

    def make(target: Path) -> None:
        about = ExportInfo(name="small", licenses={"data": "drawn for tests"})
        with one_thread():  # or the lanes of `make test`, which share the folder, would differ
            detector = small_detector(model) if boxes else None
            export_model(model, target, export_images(), about, detector)

    name = f"export-{text}-{backbone.replace(':', '-')}{'-boxes' if boxes else ''}"
    shutil.copytree(made_once(name, make), folder, dirs_exist_ok=True)
    return model


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums that do not depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def export_images() -> ExportImages:
    """Images for INT8, and a background of as many."""
    images = small_images(16)
    return ExportImages(images, background=[images[:12], images[12:]])


def small_model(text: Literal["tower", "table"] = "tower", backbone: str = "yolov8n") -> KDEOVModel:
    """A student of images of `SIZE` pixels, with statistics of images in its batch norms."""
    torch.manual_seed(0)
    student = VisualStudent(backbone, embed_dim=DIM)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # the plain mean of all batches
    transform = ImageTransform(SIZE)
    with torch.no_grad():
        student.train()(transform.normalize(torch.from_numpy(small_images(16))))
    encoder: TextEncoder = _tower() if text == "tower" else _table()
    return KDEOVModel.from_parts(student, encoder, transform, "small").eval()


def small_detector(model: KDEOVModel) -> Detector:
    """A box head with random weights, whose objectness takes all values."""
    torch.manual_seed(3)
    backbone = model.student.backbone
    head = BoxHead(backbone.channels, backbone.strides).eval()
    pixels = model.transform.normalize(torch.from_numpy(small_images(16)))
    with torch.no_grad():
        _, logits = head(backbone(pixels))
        for last in (quality[-1] for quality in head.quality):
            last.weight.mul_(1 / logits.std())
            last.bias.sub_(logits.mean()).mul_(1 / logits.std())
    score = ScoreParams(scale=8.0, bias=1.0, beta=0.4)
    return Detector(model.student, head, score, BOX_SIZE, ["a cat", "a dog"], 0.2).eval()


def small_images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth colored images, uint8 [count, 3, SIZE, SIZE]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    full = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    return (full.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _tower() -> FrozenCLIPTextEncoder:
    clip = import_clip().model.CLIP(
        embed_dim=DIM, image_resolution=32, vision_layers=1, vision_width=64, vision_patch_size=16,
        context_length=77, vocab_size=49408, transformer_width=64, transformer_heads=1,
        transformer_layers=2,
    )  # fmt: skip
    return FrozenCLIPTextEncoder.from_state_dict(clip.state_dict())


def _table() -> PrecomputedTextEncoder:
    embeddings = torch.randn(len(TABLE_TEXTS), DIM, generator=torch.Generator().manual_seed(1))
    return PrecomputedTextEncoder(TABLE_TEXTS, 2 * embeddings)
