"""A step's kernels are launched without waiting for the GPU, seen on any machine: torch's fake
tensors carry a device and a shape and no numbers, so that reading a number raises.

Checked with torch 2.14, whose fake tensors are private. `tests/gpu` counts the waits of real steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdeov.data import transform
from kdeov.data.colors import adjust_colors_
from kdeov.data.views import View
from kdeov.models.student import VisualStudent
from kdeov.training.batch_norm import RunningStatistics
from kdeov.training.forward import TrainingForward, split_batch
from kdeov.training.losses import TERMS, FeatureAlignmentLoss

BATCH, DIM, SIDE = 16, 32, 64


class Waits(TorchDispatchMode):
    """Operations that copy between host and GPU and wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._pin_memory.default:  # needs a GPU
            return args[0]
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        both = {x.device.type for x in tensors} == {"cpu", "cuda"}
        if both and "copy" in func.__name__ and not kwargs.get("non_blocking"):
            self.found.append(func.__name__)
        return out


@pytest.fixture
def waits() -> Iterator[Waits]:
    """Counts the waits of a GPU that is not there."""
    transform._levels.cache_clear()
    try:
        with FakeTensorMode(), Waits() as counted:
            yield counted
    finally:
        transform._levels.cache_clear()  # it holds fake tensors


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_forward_pass_with_all_its_losses_waits_for_nothing(waits: Waits) -> None:
    with torch.device("cuda"):
        student = VisualStudent("yolov8n", "film", DIM)
        loss = FeatureAlignmentLoss(dict.fromkeys(TERMS, 1.0), "cosine")
        pixels = torch.randint(0, 255, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
        teacher, texts = torch.randn(BATCH, DIM), torch.randn(BATCH, DIM)
        boxes, targets = torch.rand(BATCH, 2, 4), torch.randn(BATCH, 2, DIM)
    normalize = transform.ImageTransform(size=SIDE).normalize
    normalize(pixels)  # the constants, once a run
    waits.found.clear()
    statistics, forward = RunningStatistics(student), TrainingForward(student, dense=True)
    inputs = (normalize(pixels), teacher, texts)
    embeddings = []
    for part in split_batch(inputs, (boxes, targets), BATCH // 2, 0, mosaics=(0, 1)):
        statistics.restore()
        output = forward(part.pixels, part.boxes, part.mosaic)
        statistics.collect()
        embeddings.append(output.embedding)
        assert output.tiles is not None and output.regions is not None
    statistics.join()
    terms = loss(torch.cat(embeddings), teacher, texts, slice(None))
    assert terms["total"].device.type == "cuda"
    assert not waits.found


def test_changing_colors_waits_for_nothing(waits: Waits) -> None:
    pixels = torch.randint(0, 255, (4, 3, SIDE, SIDE), dtype=torch.uint8, device="cuda")
    plain, dark = View(0, 0, 9, 9), View(0, 0, 9, 9, brightness=80, contrast=90, blur=5)
    found = adjust_colors_(pixels, [dark, plain, dark, plain])
    assert found.device.type == "cuda" and not waits.found


def test_waits_are_found(waits: Waits) -> None:
    on_gpu = torch.ones(2, device="cuda")
    torch.tensor([1.0, 2.0], device="cuda")
    assert len(waits.found) == 1
    with pytest.raises(DataDependentOutputException):
        on_gpu.sum().item()
