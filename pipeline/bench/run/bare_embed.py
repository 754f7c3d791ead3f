"""Embeddings of a folder with nothing around them: decode in threads, forward in batches.

`kdeov embed` is compared with this script, which imports what it needs and no more.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

BATCH = 16  # images of a forward pass, as the command has it


def embed(model: str, images: Path, size: int, output: str) -> None:
    """Writes the embeddings of a folder.

    Args:
        model: `image.onnx` of an export.
        images: Folder of JPEGs.
        size: Side of the centred squares, pixels.
        output: The `.npy` file.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    paths = sorted(images.iterdir())
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(partial(_pixels, size=size), paths)  # ahead of the forward passes
        for start in range(0, len(paths), BATCH):
            batch = np.stack([next(decoded) for _ in paths[start : start + BATCH]])
            rows.append(session.run(["embedding"], {"pixels": batch})[0])
    np.save(output, np.concatenate(rows))


def _pixels(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


if __name__ == "__main__":
    embed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
