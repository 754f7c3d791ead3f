"""Embeddings of images of the training data, which an export keeps for searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdeov.errors import DataError, first_line
from kdeov.runtime.card import BACKGROUND, FIX, Card, require_file


def read_background(folder: Path, card: Card) -> np.ndarray | None:
    """`background.npy` as unit embeddings float32 [N, D]; None in an export without.

    Raises:
        DataError: The file is damaged, or of another width than the model.
    """
    if BACKGROUND not in card.files:
        return None
    path = require_file(folder, card, BACKGROUND)
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: unreadable ({first_line(error)}); {FIX}") from error
    if stored.ndim != 2 or stored.shape[1] != card.embed_dim or not len(stored):
        raise DataError(f"{path}: holds {stored.shape}, not [N, {card.embed_dim}]; {FIX}")
    embeddings = stored.astype(np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
