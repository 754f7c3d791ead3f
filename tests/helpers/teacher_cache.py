"""Runs `embed` and reads its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.identity import (
    cache_identity,
    read_teacher_identity,
    shown_classes,
)
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards, open_cache
from pipeline.embedding.embed import write_teacher_shards

MakeParams = Callable[..., Params]


def identity_of(layout: Layout, params: Params, split: str = "train") -> dict[str, Any]:
    classes = shown_classes(params.embed, layout.images)
    return cache_identity(read_teacher_identity(layout.teacher), params.embed, split, classes)


def paired(layout: Layout, params: Params, split: str = "train") -> PairedShards:
    return open_cache(params, layout, split)


def run(params: Params, layout: Layout, out: Path | None = None) -> None:
    out = out or layout.embeddings
    write_teacher_shards(params.embed, params.cluster, layout.images, layout.teacher, out)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ages(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.tar")
    }


def tokens(sample: PairedSample) -> np.ndarray:
    return np.concatenate([sample.view_embeddings, sample.text_embeddings]).astype(np.float32)
