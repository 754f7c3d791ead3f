"""Copies of an export that differ in one thing, with a card that fits them."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np

from kdeov.runtime.card import CARD, GOLDEN, read_card, write_card


def write_copy(
    folder: Path, target: Path, files: dict[str, bytes | None], **fields: object
) -> Path:
    """A copy with a fresh card; None leaves a file out."""
    shutil.copytree(folder, target)
    for name, content in files.items():
        (target / name).unlink(missing_ok=True)
        if content is not None:
            (target / name).write_bytes(content)
    card = dataclasses.replace(read_card(folder), **fields)
    write_card(target, card, sorted(p.name for p in target.iterdir() if p.name != CARD))
    return target


def golden_arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
