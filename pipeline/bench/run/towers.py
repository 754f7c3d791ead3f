"""The towers that are timed: an exported student, and open_clip's image towers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError
from kdeov.export.files import ExportImages, export_model
from kdeov.export.onnx import Session, to_onnx
from kdeov.models.model import KDEOVModel
from kdeov.models.student import VisualStudent
from kdeov.text.table import PrecomputedTextEncoder
from kdeov.weights.towers import build_image_tower, import_open_clip, tower_config
from pipeline.bench.fixtures import photographs
from pipeline.bench.sizes import RunSizes

logger = logging.getLogger(__name__)

LABELS = ("cat", "dog")
CALIBRATION_IMAGES = 16

Embed = Callable[[np.ndarray], object]


def write_student(folder: Path, sizes: RunSizes) -> None:
    """Exports a student of random weights, whose text side is a table.

    Args:
        folder: Where to.
        sizes: Backbone and sizes.
    """
    torch.manual_seed(0)
    transform = ImageTransform(sizes.image_size)
    images = torch.stack([transform.pixels(image) for image in _images(CALIBRATION_IMAGES)])
    student = VisualStudent(sizes.backbone, embed_dim=sizes.dim)
    with torch.no_grad():  # statistics of images, so that activations have sound ranges
        student.train()(transform.normalize(images))
    texts = [f"a photo of a {label}." for label in LABELS]
    encoder = PrecomputedTextEncoder(texts, torch.randn(len(texts), sizes.dim))
    model = KDEOVModel.from_parts(student, encoder, transform, "random").eval()
    # random weights have no answers that INT8 must keep: with one class all images agree
    one_class = np.eye(1, sizes.dim, dtype=np.float32)
    export_model(model, folder, ExportImages(images.numpy(), one_class))


def _images(count: int) -> list[Image.Image]:
    from io import BytesIO

    return [Image.open(BytesIO(jpeg)) for jpeg in islice(photographs(count), count)]


def reference_tower(name: str) -> nn.Module:
    """An image tower of open_clip with random weights, its parallel branches merged where it has
    some, for normalized pixels [B, 3, S, S].

    Raises:
        ConfigError: open_clip has no such architecture.
    """
    from timm.utils.model import reparameterize_model

    config = tower_config(import_open_clip().get_model_config(name), name)
    tower = build_image_tower(config, name).eval().requires_grad_(False)
    return reparameterize_model(tower).eval()


def torch_call(tower: nn.Module) -> Embed:
    """A tower in eager PyTorch."""
    return lambda pixels: tower(torch.from_numpy(pixels))


def onnx_call(tower: nn.Module, name: str, image_size: int) -> Embed | None:
    """A tower in ONNX Runtime on one thread; None, with a warning, where it cannot be exported."""
    example = {"pixels": torch.zeros(1, 3, image_size, image_size)}
    axes: Sequence[dict[int, object]] = [{}]
    try:
        session = Session(to_onnx(tower, example, ["embedding"], axes, name))
    except DataError as error:
        logger.warning("%s", error)
        return None
    return lambda pixels: session({"pixels": pixels})
