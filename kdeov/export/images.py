"""The image side of an export: `image.onnx`, `dense.onnx`, and the inputs that they are compared
with PyTorch on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kdeov.data.transform import ImageTransform
from kdeov.export.graphs import DenseGraph
from kdeov.export.onnx import Session, part_of, pixel_axes, to_onnx
from kdeov.export.parity import Arrays, Parity, require_parity
from kdeov.models.student import VisualStudent
from kdeov.runtime.card import DENSE, IMAGE

LARGE = 224  # pixels; students of such images are compared at 640 x 480 too


class Reference:
    """PyTorch's own outputs, by the names that they have in the files.

    Args:
        student: On the CPU, in float32 and evaluation mode.
        transform: The normalization of its input.
    """

    def __init__(self, student: VisualStudent, transform: ImageTransform) -> None:
        self.student = student
        self.transform = transform

    @torch.inference_mode()
    def embedding(self, inputs: Arrays) -> Arrays:
        """Unit embeddings [B, D] of `pixels`."""
        pixels = self.transform.normalize(torch.from_numpy(inputs["pixels"]))
        return {"embedding": F.normalize(self.student(pixels), dim=-1).numpy()}

    @torch.inference_mode()
    def dense(self, inputs: Arrays) -> Arrays:
        """All outputs of `DenseGraph` for `pixels` and `classes`."""
        pixels = self.transform.normalize(torch.from_numpy(inputs["pixels"]))
        classes = torch.from_numpy(inputs["classes"])
        embedding = self.embedding(inputs)["embedding"]
        return {
            "embedding": embedding,
            "dense": self.student.dense(pixels).numpy(),
            "scores": embedding @ inputs["classes"].T,
            "heatmap": self.student.heatmap(pixels, classes).numpy(),
        }


def write_dense(folder: Path, graph: DenseGraph, reference: Reference) -> tuple[bytes, Parity]:
    """Writes `dense.onnx` and compares it.

    Returns:
        The file, and its parity.

    Raises:
        DataError: The network cannot be exported, or the file differs from PyTorch.
    """
    student = reference.student
    stride = student.backbone.strides[-1]
    pixels = torch.zeros(2, 3, 2 * stride, 3 * stride, dtype=torch.uint8)
    model = to_onnx(
        graph,
        {"pixels": pixels, "classes": torch.zeros(3, student.embed_dim)},
        ["embedding", "dense", "scores", "heatmap"],
        [pixel_axes(stride), {0: torch.export.Dim("k", min=1)}],
        DENSE,
    )
    (folder / DENSE).write_bytes(model)
    inputs = [
        {"pixels": x, "classes": unit_rows(count, student.embed_dim)}
        for count, x in zip((1, 5, 2, 8), unseen_pixels(reference), strict=False)
    ]
    return model, require_parity(DENSE, Session(model), reference.dense, inputs)


def write_image(folder: Path, dense: bytes, reference: Reference) -> tuple[bytes, Parity]:
    """Writes `image.onnx`, the part of `dense.onnx` that the embedding depends on, and compares it.

    Returns:
        The file, and its parity.

    Raises:
        DataError: The file differs from PyTorch.
    """
    model = part_of(dense, ["pixels"], ["embedding"])
    (folder / IMAGE).write_bytes(model)
    inputs = [{"pixels": x} for x in unseen_pixels(reference)]
    return model, require_parity(IMAGE, Session(model), reference.embedding, inputs)


def unseen_pixels(reference: Reference) -> Iterator[np.ndarray]:
    """Batches of 1, 3 and 8 images of sizes that no export saw: the student's own, and others."""
    stride = reference.student.backbone.strides[-1]
    side = -(-reference.transform.size // stride) * stride
    yield smooth_pixels(1, side, side)
    yield smooth_pixels(3, side + stride, side)
    yield smooth_pixels(8, 3 * stride, 4 * stride)
    if side >= LARGE:
        yield smooth_pixels(1, 256, 256)
        yield smooth_pixels(1, -(-480 // stride) * stride, 640)


def smooth_pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Drawn images uint8 [count, 3, height, width] of large patches with noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 3, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    noise = generator.integers(-24, 25, (count, 3, height, width))
    return np.clip(coarse[:, :, rows][..., columns] + noise, 0, 255).astype(np.uint8)


def unit_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Drawn unit embeddings float32 [count, dim]."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
