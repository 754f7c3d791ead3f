"""Indexes of random embeddings, for tests that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IndexIdentity
from pipeline.search.index import Index
from pipeline.search.table import File

DIM = 16


def unit_rows(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """Random unit embeddings, float32 [count, dim]."""
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def identity_of(dim: int = DIM, images: str = "a", texts: str = "b") -> IndexIdentity:
    """The identity of a model of that width."""
    return IndexIdentity(images * 64, texts * 64, dim, f"model {images}")


def file_of(row: int, path: str | None = None, moment: str | None = None) -> File:
    """A file with that row; its content is the row's number."""
    content = row.to_bytes(32, "big")
    return File(path or f"{row}.jpg", content, 10, 20, moment, moment, row)


def write_index(
    folder: Path, rows: np.ndarray, files: Sequence[File] | None = None, **about: str
) -> Index:
    """Makes an index of rows [N, D] and opens it.

    Args:
        folder: Where to.
        rows: Of the files.
        files: None gives each row a file of its number.
        about: Of the index, such as its `root`.
    """
    with IndexWriter(folder, identity_of(rows.shape[1])) as writer:
        writer.describe(**{"kind": "folder", "root": "/photos", "model": None, **about})
        writer.commit(rows, files or [file_of(row) for row in range(len(rows))])
        writer.finish()
    return Index.open(folder)
