"""Embeddings of images of the training data, which an export keeps: a search compares the scores of
its hits with the scores of these for the same query.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kdeov.export.onnx import Session
from kdeov.runtime.card import BACKGROUND
from kdeov.runtime.images import pad_to_stride


def write_background(
    folder: Path, image: bytes, batches: Iterable[np.ndarray], stride: int
) -> None:
    """Writes `background.npy`, unit embeddings fp16 [N, D]; nothing if there is no image.

    Args:
        folder: Of the export.
        image: `image.onnx`, which embeds.
        batches: Images, uint8 [B, 3, S, S].
        stride: Of the backbone's last level.
    """
    session = Session(image)
    embeddings = [
        session({"pixels": pad_to_stride(batch, stride)})["embedding"] for batch in batches
    ]
    if embeddings:
        stored = np.concatenate(embeddings).astype(np.float16)
        np.save(folder / BACKGROUND, stored, allow_pickle=False)
