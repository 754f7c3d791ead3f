"""The forward pass of training leaves gradients in the memory format of the maps: on others, the
backward passes of batch norm and SiLU take ten times as long.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdeov.models.student import VisualStudent
from kdeov.training.forward import TrainingForward
from kdeov.training.mosaics import make_mosaics

COUNT, SIDE = 8, 64
BACKWARD = ("native_batch_norm_backward", "silu_backward")


class Gradients(TorchDispatchMode):
    """Keeps the layouts of the gradients that batch norm and SiLU get."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_last: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in BACKWARD):
            gradient: Tensor = args[0]
            self.channels_last.append(gradient.stride(1) == 1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("mosaic", [False, True])
def test_gradients_keep_channels_last(dense: bool, boxes: bool, mosaic: bool) -> None:
    torch.manual_seed(0)
    student = VisualStudent("yolov8n", "film", 16, None).to(memory_format=torch.channels_last)
    pixels = torch.randn(COUNT, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    regions = torch.tensor([[0.0, 0, 32, 32], [8, 8, 40, 64]]).expand(COUNT, 2, 4)
    with Gradients() as gradients:
        output = TrainingForward(student.train(), dense)(
            pixels, regions if boxes else None, make_mosaics(pixels, (1, 2)) if mosaic else None
        )
        sum(part.sum() for part in output if part is not None).backward()
    assert len(gradients.channels_last) > 50
    assert all(gradients.channels_last)
