"""Backbones of YOLO detectors (Ultralytics, AGPL-3.0): a plain chain of layers with three taps."""

from __future__ import annotations

import importlib
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kdeov.errors import KdeovError
from kdeov.models.trunk import Trunk
from kdeov.weights.state_dict import StateDict, read_state_dict

# ultralytics reads these when it is imported. Unset, it looks hosts up, installs packages at run
# time, unpickles whole modules and writes its settings into the home folder.
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
os.environ.setdefault(
    "YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / f"kdeov-yolo-{os.getuid()}")
)

LAYERS = {"yolov5": 10, "yolov8": 10, "yolo11": 11}
"""Layers of a family's backbone; the last one is SPPF, and C2PSA in YOLO11."""
SIZES = "nsmlx"
YOLOS = tuple(family + size for family in LAYERS for size in SIZES)


class YoloTrunk(Trunk):
    """The backbone of a YOLO detector, giving P3, P4 and P5.

    Args:
        name: One of `YOLOS`.
    """

    strides = (8, 16, 32)
    mean = (0.0, 0.0, 0.0)  # detectors are trained on pixels in [0, 1]
    std = (1.0, 1.0, 1.0)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.network: nn.Sequential = _layers(name)
        self.taps = (4, 6, len(self.network) - 1)
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, 32, 32))
        self.channels = tuple(x.shape[1] for x in maps)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`."""
        x, maps = images, []
        for index, layer in enumerate(self.network):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps

    def read(self, path: Path) -> StateDict:
        """A plain state dict, or the one inside an ultralytics checkpoint (read against its class
        allow-list).
        """
        return _backbone_of(read_yolo(path), len(self.network))

    def recognize(self, state: StateDict) -> str | None:
        """See `Trunk`; the first YOLO whose shapes fit."""
        with torch.device("meta"):
            for name in YOLOS:
                own = _layers(name).state_dict()
                if all(key in state and state[key].shape == own[key].shape for key in own):
                    return name
        return None

    def simplify(self) -> None:
        """See `Trunk`: nothing else reads the input of an activation."""
        for module in self.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = True


def import_ultralytics(name: str) -> Any:
    """A module of `ultralytics`, such as `nn.tasks`, without the patches that importing it makes.

    It replaces `Image.open`, which then needs another package for every unreadable image, and
    `torch.save`, which then writes a second time into a half-written file.
    """
    kept = Image.open, torch.save, torch.load
    module = importlib.import_module(f"ultralytics.{name}")
    Image.open, torch.save, torch.load = kept
    return module


def _layers(name: str) -> nn.Sequential:
    tasks = import_ultralytics("nn.tasks")
    description = {**tasks.yaml_model_load(f"{name}.yaml"), "head": [], "scale": name[-1]}
    layers, _ = tasks.parse_model(description, ch=3, verbose=False)
    expected = LAYERS[name[:-1]]
    if len(layers) != expected or any(layer.f != -1 for layer in layers):
        raise KdeovError(
            f"{name}: the backbone is no chain of {expected} layers; use ultralytics 8.4"
        )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):  # as ultralytics sets them for a whole detector
            module.eps, module.momentum = 1e-3, 0.03
    return layers


def read_yolo(path: Path) -> StateDict:
    """All tensors of a YOLO's weight file (see `YoloTrunk.read`), under the file's names.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return read_state_dict(path)
    except KdeovError as plain:
        if not path.is_file() or path.suffix != ".pt":
            raise
        try:
            tasks = import_ultralytics("nn.tasks")
            checkpoint, _ = tasks.torch_safe_load(str(path.resolve()), safe_only=True)
        except (
            AttributeError, TypeError, RuntimeError, ModuleNotFoundError, OSError, LookupError,
            ValueError, EOFError, pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise plain from error
        if not isinstance(checkpoint, dict):
            raise plain
        named = (checkpoint.get(name) for name in ("ema", "model"))
        model = next((value for value in named if value is not None), None)
        if not isinstance(model, nn.Module):
            raise plain
        return model.float().state_dict()


def _backbone_of(state: StateDict, count: int) -> StateDict:
    """Entries of the first layers, `model.4.*`, renamed to `4.*`."""
    layers = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix("model.").removeprefix("model.").partition(".")
        if number.isdigit() and int(number) < count:
            layers[f"{number}.{rest}"] = value
    return layers
