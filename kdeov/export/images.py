"""The image side of an export: `dense.onnx`, `image.onnx` and `image.pt2`, and the inputs on which
they are compared with PyTorch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError, first_line
from kdeov.export.graphs import DenseGraph, ImageGraph
from kdeov.export.noise import quietly
from kdeov.export.onnx import Session, part_of, pixel_axes, to_onnx
from kdeov.export.parity import MAX_ABS_PROGRAM, Arrays, Parity, Run, require_parity
from kdeov.models.student import VisualStudent
from kdeov.runtime.card import BACKGROUND, DENSE, IMAGE, PROGRAM
from kdeov.runtime.images import pad_to_stride

GOLDEN_CLASSES, GOLDEN_SEED = 3, 1  # of the inputs in `golden.npz`
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


def write_program(folder: Path, graph: ImageGraph, reference: Reference) -> Parity:
    """Writes `image.pt2`, a program of `torch.export` for PyTorch, AOTInductor and ExecuTorch, and
    compares it with the graph. `torch.export.load(FILE).module()` takes pixels as `image.onnx`
    does.

    Raises:
        DataError: The network cannot be exported, or the file differs from PyTorch.
    """
    stride = reference.student.backbone.strides[-1]
    pixels = torch.zeros(2, 3, 2 * stride, 3 * stride, dtype=torch.uint8)
    try:
        with torch.no_grad(), quietly(PROGRAM):
            program = torch.export.export(graph, (pixels,), dynamic_shapes=(pixel_axes(stride),))
            for part in program.graph_module.modules():
                for node in getattr(getattr(part, "graph", None), "nodes", ()):
                    node.meta.pop("stack_trace", None)  # holds paths of this machine
            ranges = program.range_constraints  # in the order of a set
            in_order = sorted(ranges.items(), key=lambda item: str(item[0]))
            ranges.clear()
            ranges.update(in_order)
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{PROGRAM}: this network cannot be exported ({first_line(error)}); choose another "
            "backbone"
        ) from error
    (folder / PROGRAM).write_bytes(buffer.getvalue())

    # the program is free of sizes from two strides on
    inputs = [{"pixels": x} for x in unseen_pixels(reference) if min(x.shape[2:]) >= 2 * stride]
    # the graph itself is compared with the student through `image.onnx`
    return require_parity(PROGRAM, _run_of(loaded), _run_of(graph), inputs, MAX_ABS_PROGRAM)


def write_background(
    folder: Path, image: bytes, batches: Iterable[np.ndarray], stride: int
) -> None:
    """Writes `background.npy`, unit embeddings fp16 [N, D] of images of the training data: a search
    compares its scores with theirs. Nothing is written if there is no image.

    Args:
        folder: Of the export.
        image: `image.onnx`, which embeds.
        batches: Images, uint8 [B, 3, S, S].
        stride: Of the backbone's last level.
    """
    session = Session(image)
    embeddings = [
        session({"pixels": pad_to_stride(batch, stride)})["embedding"] for batch in batches
    ]
    if embeddings:
        stored = np.concatenate(embeddings).astype(np.float16)
        np.save(folder / BACKGROUND, stored, allow_pickle=False)


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


def _run_of(module: Callable[[Tensor], Tensor]) -> Run:
    @torch.inference_mode()
    def run(arrays: Arrays) -> Arrays:
        return {"embedding": module(torch.from_numpy(arrays["pixels"])).numpy()}

    return run
