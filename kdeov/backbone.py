"""The student's backbone: the first ten layers of a YOLO detector, giving features at strides 8, 16
and 32.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from kdeov.errors import KdeovError
from kdeov.weights import StateDict, read_state_dict

# ultralytics reads these when it is imported. Unset, it looks hosts up, installs packages at run
# time, unpickles whole modules and writes its settings into the home folder.
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
os.environ.setdefault(
    "YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / f"kdeov-yolo-{os.getuid()}")
)

logger = logging.getLogger(__name__)

BACKBONES = {"yolov8n": ("yolov8n.yaml", "n"), "yolov5s": ("yolov5s.yaml", "s")}
LAYERS = 10  # 0 to 9: a plain chain that ends with SPPF
TAPS = (4, 6, 9)  # P3, P4, P5
STRIDE = 32


class LightweightVisualBackbone(nn.Module):
    """Layers 0 to 9 of YOLOv8n or YOLOv5s (Ultralytics, AGPL-3.0).

    Args:
        backbone_type: `yolov8n` or `yolov5s`.
        weights: A state dict or an ultralytics `.pt` to start from; random weights where None.

    Attributes:
        channels: Channels of P3, P4 and P5.
        folded: Whether the weights came with batch norm folded into the convolutions.

    Raises:
        KdeovError: Unknown name, or weights that do not fit.
    """

    def __init__(self, backbone_type: str = "yolov8n", weights: str | Path | None = None):
        super().__init__()
        if backbone_type not in BACKBONES:
            raise KdeovError(
                f"backbone {backbone_type!r} is unknown; choose one of {', '.join(BACKBONES)}"
            )
        self.backbone_type = backbone_type
        self.layers = _build_layers(*BACKBONES[backbone_type])
        self.folded: Tensor
        self.register_buffer("folded", torch.tensor(False))
        if weights is not None:
            self._load(Path(weights))
        with torch.no_grad():
            training, probe = self.training, torch.zeros(1, 3, STRIDE, STRIDE)
            self.channels = tuple(f.shape[1] for f in self.eval()(probe))
            self.train(training)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of pictures of any size.

        Args:
            images: [B, 3, H, W]; the right and lower edges are repeated up to a multiple of 32.

        Returns:
            P3 [B, C3, H/8, W/8], P4 [B, C4, H/16, W/16], P5 [B, C5, H/32, W/32].
        """
        x = pad_to_stride(images)
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in TAPS:
                features.append(x)
        return features

    def train(self, mode: bool = True) -> LightweightVisualBackbone:
        """Batch norm that was folded stays an identity: batch statistics would undo the
        pretraining.
        """
        super().train(mode)
        if self.folded:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _load(self, path: Path) -> None:
        state = _layers_of(_read_yolo(path))
        own = self.layers.state_dict()
        wrong = next(
            (
                name
                for name, value in own.items()
                if name not in state or state[name].shape != value.shape
            ),
            None,
        )
        if wrong is not None:
            found = tuple(state[wrong].shape) if wrong in state else "absent"
            raise KdeovError(
                f"{path}: does not fit {self.backbone_type}: layer {wrong} should be "
                f"{tuple(own[wrong].shape)} and is {found}; name the weights of "
                f"{self.backbone_type}"
            )
        self.layers.load_state_dict({name: state[name].to(own[name].dtype) for name in own})
        self.folded.fill_(_is_folded(self.layers))
        logger.info(
            "%s: loaded %s%s",
            self.backbone_type,
            path,
            ", batch norm folded" if self.folded else "",
        )


def pad_to_stride(images: Tensor) -> Tensor:
    """Repeats the right and lower edges until both sides are multiples of 32."""
    down, right = -images.shape[-2] % STRIDE, -images.shape[-1] % STRIDE
    return F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images


def _ultralytics() -> Any:
    """`ultralytics.nn.tasks`, without what importing it does to others.

    It replaces `Image.open`, which then wants another package for every unreadable picture, and
    `torch.save`, which then writes a second time into a file that is half-written.
    """
    kept = Image.open, torch.save, torch.load
    from ultralytics.nn import tasks

    Image.open, torch.save, torch.load = kept
    return tasks


def _build_layers(config: str, scale: str) -> nn.Sequential:
    tasks = _ultralytics()
    parse_model, yaml_model_load = tasks.parse_model, tasks.yaml_model_load
    description = {**yaml_model_load(config), "head": [], "scale": scale}
    layers, _ = parse_model(description, ch=3, verbose=False)
    if len(layers) != LAYERS:
        raise KdeovError(
            f"{config}: {len(layers)} backbone layers, expected {LAYERS}; use ultralytics 8.4"
        )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = (
                1e-3,
                0.03,
            )  # as ultralytics sets them for a whole detector
    return layers


def _read_yolo(path: Path) -> StateDict:
    """A plain state dict, or the one inside an ultralytics checkpoint (read against its class
    allow-list).
    """
    try:
        return read_state_dict(path)
    except KdeovError as plain:
        if not path.is_file() or path.suffix != ".pt":
            raise
        try:
            checkpoint, _ = _ultralytics().torch_safe_load(str(path.resolve()), safe_only=True)
        except (AttributeError, TypeError, RuntimeError, ModuleNotFoundError) as error:
            raise plain from error
        model = checkpoint.get("ema") or checkpoint.get("model")
        if not isinstance(model, nn.Module):
            raise plain
        return model.float().state_dict()


def _layers_of(state: StateDict) -> StateDict:
    """Entries `model.<0-9>.*`, renamed to `<0-9>.*`."""
    layers = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix("model.").removeprefix("model.").partition(".")
        if number.isdigit() and int(number) < LAYERS:
            layers[f"{number}.{rest}"] = value
    return layers


def _is_folded(layers: nn.Module) -> bool:
    """Folding leaves batch norms with mean 0, variance 1 and scale sqrt(1 + eps)."""
    norms = [m for m in layers.modules() if isinstance(m, nn.BatchNorm2d)]
    return all(
        torch.equal(m.running_mean, torch.zeros_like(m.weight))  # type: ignore[arg-type]
        and torch.equal(m.running_var, torch.ones_like(m.weight))  # type: ignore[arg-type]
        and torch.allclose(m.weight, torch.full_like(m.weight, (1 + m.eps) ** 0.5), atol=1e-3)
        for m in norms
    )
