"""From a batch of the loader to what a training step takes, on its device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kdeov.data.colors import adjust_colors_
from kdeov.data.transform import ImageTransform
from kdeov.weights.device import upload
from pipeline.data.batch import Batch


class StepInputs(NamedTuple):
    """One rank's share of a step, on its device.

    Attributes:
        keys: B keys.
        pixels: float32 [B, 3, S, S], normalized, channels last.
        teacher: float32 [B, D]; [B, 0] where there are none, as `texts`.
        texts: float32 [B, D].
        boxes: float32 [B, R, 4].
        regions: float32 [B, R, D].
    """

    keys: list[str]
    pixels: Tensor
    teacher: Tensor
    texts: Tensor
    boxes: Tensor
    regions: Tensor


def step_inputs(batch: Batch, transform: ImageTransform, device: str) -> StepInputs:
    """Copies a batch to a device as bytes; there, the colors of its views are changed, where the
    loader has not done so, and its pixels are normalized. The host waits for nothing.

    Args:
        batch: From the loader; used once, since on a CPU its own pixels get their colors.
        transform: The student's.
        device: Device of the step.
    """
    pixels = upload(batch.pixels, device)
    if batch.views:
        pixels = adjust_colors_(pixels, batch.views)
    pixels = transform.normalize(pixels)
    return StepInputs(
        batch.keys,
        pixels.contiguous(memory_format=torch.channels_last),
        *(upload(tensor, device) for tensor in batch.tensors[1:]),
    )
