"""A YOLO's own neck and head, whose classes become one objectness: for recall and demonstrations.

Its boxes were learned from all classes of the detector, so nothing that it finds is novel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeov.detection.head import boxes_of, make_anchors
from kdeov.errors import ConfigError, DataError
from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.yolo import LAYERS, YOLOS, import_ultralytics, read_yolo
from kdeov.weights.folder import user_path


class PretrainedHead(nn.Module):
    """Neck and head of a YOLO detector of COCO's 80 classes.

    Args:
        name: A name of `kdeov.models.yolo.YOLOS`.

    Raises:
        ConfigError: The name is no YOLO.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in YOLOS:
            raise ConfigError(
                f"backbone {name!r} has no box head of its own; set train_boxes.kind to trained"
            )
        self.name, self.first = name, LAYERS[name[:-1]]
        tasks = import_ultralytics("nn.tasks")
        description = {**tasks.yaml_model_load(f"{name}.yaml"), "scale": name[-1]}
        layers, _ = tasks.parse_model(description, ch=3, verbose=False)
        self.taps = (4, 6, self.first - 1)
        self.layers = nn.ModuleList(layers[self.first :])
        self.strides = (8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.03
        self.requires_grad_(False).eval()

    @classmethod
    def of(cls, backbone: LightweightVisualBackbone, weights: Path | str) -> PretrainedHead:
        """The head of a weight file, for a student whose trunk is that of the file.

        Raises:
            ConfigError: The student has another kind of trunk.
            DataError: The file holds no such detector, or the student's trunk has other weights:
                it was trained after it was read.
        """
        head, path = cls(backbone.backbone_type), user_path(weights)
        trunk = backbone.trunk
        own, file = trunk.network.state_dict(), trunk.read(path)
        for name, value in own.items():
            if name.endswith("num_batches_tracked"):
                continue
            if name not in file or not torch.equal(file[name].to(value), value):
                raise DataError(
                    f"{path}: layer {name} of the student's trunk has other weights than this "
                    "file, whose head therefore does not fit; set "
                    "distill.backbone_learning_rate to 0 and distill.freeze_batch_norm to true, "
                    "or train_boxes.kind to trained"
                )
        found = _head_of(read_yolo(path), head.first)
        for name, value in head.layers.state_dict().items():
            counted = name.endswith("num_batches_tracked")
            if not counted and (name not in found or found[name].shape != value.shape):
                raise DataError(
                    f"{path}: layer {name} of {head.name}'s neck and head is absent or of another "
                    "shape; give the weights of the whole detector, or set train_boxes.kind to "
                    "trained"
                )
            found.setdefault(name, value)
        head.layers.load_state_dict(
            {n: v for n, v in found.items() if n in head.layers.state_dict()}
        )
        return head

    @property
    def detect(self) -> Any:
        """The last layer: ultralytics' `Detect`."""
        return self.layers[-1]

    def train(self, mode: bool = True) -> PretrainedHead:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `BoxHead.forward`; the logit is that of the likeliest class."""
        boxes, logits = self.class_logits(features)
        return boxes, logits.amax(dim=-1)

    def class_logits(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] in pixels and the logits [B, N, 80] of the classes of COCO."""
        maps: dict[int, Tensor] = dict(zip(self.taps, features, strict=True))
        last = self.first - 1
        layers: Any = self.layers
        for number, layer in enumerate(layers[:-1], self.first):
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            inputs = [maps[last if source == -1 else source] for source in sources]
            maps[number] = layer(inputs if len(inputs) > 1 else inputs[0])
            last = number
        levels = [maps[source] for source in self.detect.f]
        sides = [head(x).flatten(2) for head, x in zip(self.detect.cv2, levels, strict=True)]
        logits = [head(x).flatten(2) for head, x in zip(self.detect.cv3, levels, strict=True)]
        distances = self.detect.dfl(torch.cat(sides, dim=2)).transpose(1, 2)
        anchors = make_anchors(levels, self.strides)
        return boxes_of(distances, anchors), torch.cat(logits, dim=2).transpose(1, 2)


def _head_of(state: dict[str, Tensor], first: int) -> dict[str, Tensor]:
    """Entries of the layers from `first` on, `model.10.*`, renamed to `0.*`."""
    layers = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix("model.").removeprefix("model.").partition(".")
        if number.isdigit() and int(number) >= first:
            layers[f"{int(number) - first}.{rest}"] = value.float()
    return layers
