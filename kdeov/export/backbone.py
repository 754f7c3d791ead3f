"""The student's backbone under the names of its library, to start other trainings from.

YOLO students, `backbone.pt`: `ultralytics.YOLO("yolov8n.yaml").load("backbone.pt")` for the name of
the card, then `train`. It takes pixels in [0, 1], as ultralytics gives them: the student's own
normalization is in the first layer. What differs is the padding of a student without pretrained
weights, whose zeros were the mean color and are black here, within reach of the border.

timm students, `backbone.safetensors`:

    network = timm.create_model("resnet18", num_classes=10)  # the card's name without "timm:"
    network.load_state_dict(load_file("backbone.safetensors"), strict=False)  # all but its head

It takes pixels normalized by the mean and std (of [0, 1]) in the metadata of the file.
"""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kdeov.data.transform import ImageTransform
from kdeov.export.graphs import pixel_map
from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.yolo import YoloTrunk

YOLO_FILE, TIMM_FILE = "backbone.pt", "backbone.safetensors"
METADATA = "pixels"
ROUNDING = 1e-6  # the student's normalization is stored in float32


def write_backbone(
    folder: Path, backbone: LightweightVisualBackbone, transform: ImageTransform
) -> str:
    """Writes the backbone.

    Args:
        folder: It exists.
        backbone: On the CPU, in float32.
        transform: The normalization of its input.

    Returns:
        Name of the file.
    """
    factor, summand = pixel_map(backbone.pixel_scale, backbone.pixel_shift, transform)
    factor = factor * 255  # of pixels in [0, 1]
    if isinstance(backbone.trunk, YoloTrunk):
        (folder / YOLO_FILE).write_bytes(_ultralytics_file(backbone.trunk, factor, summand))
        return YOLO_FILE
    normalization = {
        "mean": (-summand / factor).flatten().tolist(),
        "std": (1 / factor).flatten().tolist(),
    }
    rounded = {name: [round(x, 6) + 0.0 for x in values] for name, values in normalization.items()}
    state = {
        name: value.contiguous() for name, value in backbone.trunk.network.state_dict().items()
    }
    # a single entry: safetensors orders several at random
    (folder / TIMM_FILE).write_bytes(save(state, {METADATA: json.dumps(rounded)}))
    return TIMM_FILE


def _ultralytics_file(trunk: YoloTrunk, factor: Tensor, summand: Tensor) -> bytes:
    """A checkpoint whose model is the first layers of a detector."""
    from ultralytics.nn.tasks import DetectionModel

    layers: Any = copy.deepcopy(trunk.network)
    if (factor - 1).abs().max() > ROUNDING or summand.abs().max() > ROUNDING:
        _fold_pixels(layers[0].conv, layers[0].bn, factor, summand)
    model: Any = DetectionModel.__new__(DetectionModel)
    nn.Module.__init__(model)
    model.model, model.task = layers.requires_grad_(False), "detect"
    buffer = io.BytesIO()
    torch.save({"model": model}, buffer)
    return buffer.getvalue()


@torch.no_grad()
def _fold_pixels(conv: Any, norm: Any, factor: Tensor, summand: Tensor) -> None:
    """Moves `factor * pixels + summand` into a convolution without bias and its batch norm."""
    weight = conv.weight.double()
    norm.running_mean.copy_(norm.running_mean.double() - (weight * summand).sum(dim=(1, 2, 3)))
    conv.weight.copy_(weight * factor)
