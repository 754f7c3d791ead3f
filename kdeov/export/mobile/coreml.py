"""CoreML: `image.mlpackage`, for iOS 15 and macOS 12 or newer. It is written on any system and runs
on Apple's alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdeov.export.mobile.converter import FLOAT16, Converter
from kdeov.export.mobile.fixed import FixedImage

TAIL = frozenset({"reduce_l2_norm", "maximum", "tile", "real_div"})
"""Operations of the normalization, whose sum of squares may be too large for float16."""


class CoreMl(Converter):
    """Takes an RGB image (`CVPixelBuffer`) of S x S pixels: CoreML has no uint8 arrays."""

    name = "coreml"
    file = "image.mlpackage"
    package = "coremltools"
    modules = ("coremltools",)
    install = "pip install 'coremltools>=9'"
    precision = FLOAT16
    dtype = "image"

    def write(self, image: FixedImage, folder: Path) -> None:
        import coremltools as ct

        def computed_in_float16(operation: Any) -> bool:
            return operation.op_type not in TAIL

        model = ct.convert(
            image.program(torch.float32).run_decompositions({}),
            inputs=[
                ct.ImageType(name="pixels", shape=image.shape, color_layout=ct.colorlayout.RGB)
            ],
            outputs=[ct.TensorType(name="embedding", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS15,
            compute_precision=ct.transform.FP16ComputePrecision(computed_in_float16),
        )
        model.save(str(folder / self.file))

    def run(self, folder: Path, pixels: list[np.ndarray]) -> None:
        return None
