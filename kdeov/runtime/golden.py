"""The self-test of a file: its outputs on this machine against those of PyTorch at export."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from kdeov.errors import DataError, first_line
from kdeov.runtime.card import FIX, GOLDEN, Card, require_file
from kdeov.runtime.session import Session

MIN_COSINE = 0.999
MAX_HEATMAP_DIFFERENCE = 0.02  # of cosines


def read_golden(folder: Path, card: Card, *names: str) -> list[np.ndarray]:
    """Arrays of `golden.npz`, by name.

    Raises:
        DataError: The file is missing or damaged, or has no such array.
    """
    path = require_file(folder, card, GOLDEN)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: unreadable ({first_line(error)}); {FIX}") from error


def require_equal_embeddings(found: np.ndarray, golden: np.ndarray, session: Session) -> None:
    """Compares embeddings [N, D] with golden ones of unit length.

    Raises:
        DataError: A cosine is below `MIN_COSINE`: this provider computes something else.
    """
    if found.shape != golden.shape:
        _refuse(f"shape {found.shape} instead of {golden.shape}", session)
    cosine = float((unit(found) * unit(golden)).sum(axis=-1).min())
    if not cosine >= MIN_COSINE:  # nor for NaN
        _refuse(f"cosine {cosine:.4f} with a golden embedding, at least {MIN_COSINE}", session)


def require_equal_heatmaps(found: np.ndarray, golden: np.ndarray, session: Session) -> None:
    """Compares heat maps [B, K, H, W] with golden ones.

    Raises:
        DataError: A cosine differs by more than `MAX_HEATMAP_DIFFERENCE`.
    """
    if found.shape != golden.shape:
        _refuse(f"shape {found.shape} instead of {golden.shape}", session)
    apart = float(np.abs(found - golden).max())
    if not apart <= MAX_HEATMAP_DIFFERENCE:  # nor for NaN
        _refuse(f"{apart:.4f} from a golden heat map, {MAX_HEATMAP_DIFFERENCE} at most", session)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [..., D] at unit length, float32."""
    values = np.asarray(embeddings, np.float64)
    largest = np.maximum(np.abs(values).max(axis=-1, keepdims=True), 1e-300)
    values = values / largest  # so that no square overflows
    lengths = np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return (values / lengths).astype(np.float32)


def _refuse(found: str, session: Session) -> None:
    raise DataError(
        f"{session.path}: another output on {session.provider} than at export ({found}); choose "
        f"another provider, or {FIX}"
    )
