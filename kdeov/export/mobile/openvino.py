"""OpenVINO: `image.xml` with `image.bin`, for Intel processors, their GPUs and NPUs, and ARM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdeov.export.mobile.converter import FLOAT16, Converter
from kdeov.export.mobile.fixed import FixedImage


class OpenVino(Converter):
    """Reads the ONNX model. The weights are stored as float16, and computed with as float32."""

    name = "openvino"
    file = "image.xml"
    beside = ("image.bin",)
    package = "openvino"
    modules = ("openvino",)
    install = "pip install 'openvino>=2026.4'"
    precision = FLOAT16

    def write(self, image: FixedImage, folder: Path) -> None:
        import openvino

        model = openvino.Core().read_model(image.onnx())
        model.reshape(list(image.shape))
        openvino.save_model(model, folder / self.file, compress_to_fp16=True)

    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray:
        import openvino

        # processors with bfloat16 would compute in it, and lose what the file does not
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(folder / self.file, "CPU", settings)
        return np.concatenate([np.array(model(image)[model.output(0)]) for image in pixels])
