"""ExecuTorch: `image.pte`, computed by XNNPACK on the processors of phones and computers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kdeov.export.mobile.converter import Converter
from kdeov.export.mobile.fixed import FixedImage


class ExecuTorch(Converter):
    """Has one method, `forward`, from pixels to embeddings."""

    name = "executorch"
    file = "image.pte"
    package = "executorch"
    modules = (
        "executorch.backends.xnnpack.partition.xnnpack_partitioner",
        "executorch.exir",
        "executorch.runtime",
    )
    install = "pip install 'executorch>=1.5' 'torch==2.13.*' in an environment of its own"

    def write(self, image: FixedImage, folder: Path) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(image.program(), partitioner=[XnnpackPartitioner()])
        (folder / self.file).write_bytes(edge.to_executorch().buffer)

    def run(self, folder: Path, pixels: list[np.ndarray]) -> np.ndarray:
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(folder / self.file).load_method("forward")
        outputs = [method.execute([torch.from_numpy(image)])[0] for image in pixels]
        return torch.cat(outputs).numpy()
