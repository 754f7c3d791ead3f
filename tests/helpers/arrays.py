"""Writes and lists arrays of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.artifacts.dataset import SPLITS
from pipeline.config.source_params import ArraysParams
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.sources.arrays import arrays

EXAMPLE: dict[str, Any] = yaml.safe_load(ArraysParams.example)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def given(**changes: Any) -> dict[str, Any]:
    """The arrays of the example, ten images for training and four for test."""
    values = {
        "train_x": random_pixels(10, 6, 8, 3), "train_y": np.arange(10) % 2,
        "test_x": random_pixels(4, 6, 8, 3), "test_y": np.arange(4) % 3,
        "classes": np.array(["cat", "polar_bear", "dog"]),
    }  # fmt: skip
    return values | changes


def listed(path: Path, **options: Any) -> Source:
    return arrays(path, ArraysParams(**EXAMPLE | options), 0, 64)


def saved(folder: Path, **changes: Any) -> Path:
    np.savez_compressed(folder / "data.npz", **given(**changes))
    return folder / "data.npz"


def unpacked(folder: Path) -> Path:
    folder.mkdir()
    for name, values in given().items():
        np.save(folder / f"{name}.npy", values)
    return folder


def made(source: Source, *splits: str) -> list[Sample | Rejected]:
    return [source.make(item) for split in splits or SPLITS for item in source.inputs[split]]


def part(images: str, labels: str | None, rows: Any = None) -> dict[str, Any]:
    return {"images": images, "labels": labels, "rows": rows}
