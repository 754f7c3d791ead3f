"""Sections `teacher` of params that tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DIM = 16  # width of embeddings in these tests
NUM_IMAGES = 40


def clip_file(path: Path) -> dict[str, Any]:
    """A CLIP in a weight file."""
    return {"source": "clip", "path": str(path), "clip": {"model": str(path)}}


def of_layout(folder: Path, **changes: Any) -> dict[str, Any]:
    """Embeddings in clip-retrieval's layout."""
    embeddings = {
        "name": "ViT-B/32", "images": "img_emb_*.npy", "captions": "text_emb_*.npy",
        "metadata": "metadata_*.parquet", "match": "source", "key_column": "image_path",
        "prefix": "/elsewhere/images/", "caption_column": "caption", "texts": [],
        "splits_without_embeddings": [],
    }  # fmt: skip
    return {
        "source": "embeddings", "path": str(folder), "embeddings": {**embeddings, **changes},
    }  # fmt: skip


def of_rows(folder: Path, **changes: Any) -> dict[str, Any]:
    """Embeddings by the row of the image."""
    alone = {"captions": None, "metadata": None, "match": "row", "key_column": None}
    alone["prefix"] = "test_x/"
    return of_layout(folder, **alone, **changes)
