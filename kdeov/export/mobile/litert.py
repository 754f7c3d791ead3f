"""LiteRT, formerly TensorFlow Lite: `image.tflite`, for Android and small devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from kdeov.export.mobile.converter import Converter
from kdeov.export.mobile.fixed import FixedImage


class LiteRt(Converter):
    """Has the signature `serving_default`, from `pixels` to `embedding`."""

    name = "litert"
    file = "image.tflite"
    package = "litert-torch"
    modules = ("litert_torch", "ai_edge_litert.interpreter")
    install = "pip install 'litert-torch>=0.10' 'torch<2.15' in an environment of its own"

    def write(self, image: FixedImage, folder: Path) -> None:
        import litert_torch

        model = litert_torch.convert(
            _Named(image.module), sample_kwargs={"pixels": image.example()}
        )
        model.export(str(folder / self.file))

    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray:
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(folder / self.file)).get_signature_runner()
        return np.concatenate([run(pixels=image)["embedding"] for image in pixels])


class _Named(nn.Module):
    """A module whose output has a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False  # a module of a program takes no `eval`

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.module(pixels)}
