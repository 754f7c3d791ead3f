"""Writes and lists data sets of the source `captions_csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.config.source_params import CaptionsCsvParams
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.sources.captions_csv import captions_csv

SPLITS = ("train", "val", "test")


buffer = io.BytesIO()


Image.new("RGB", (16, 16), "red").save(buffer, "JPEG")


JPEG = buffer.getvalue()


def source(folder: Path, rows: Iterable[tuple[str, ...]] | bytes, **options: Any) -> Source:
    """The source of a folder with this table: `image, caption, label` rows, or its very bytes."""
    (folder / "images").mkdir(exist_ok=True)
    if isinstance(rows, bytes):
        (folder / "captions.csv").write_bytes(rows)
    else:
        with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption", "label"), *rows])
    values = {
        "images": "images", "table": "captions.csv", "image_column": "image",
        "caption_column": "caption", "label_column": None, "val": 0.1, "test": 0.1,
    }  # fmt: skip
    return captions_csv(folder, CaptionsCsvParams(**values | options), 0, 64)


def put(folder: Path, *names: str, data: bytes = JPEG) -> None:
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def listed(source: Source) -> dict[str, tuple[str, Any]]:
    """Split and input of each image."""
    return {
        item.name if isinstance(item, Rejected) else item.file.name: (split, item)
        for split in SPLITS
        for item in source.inputs[split]
    }


def made(source: Source) -> dict[str, Sample | Rejected]:
    """What becomes of each image."""
    return {
        name: item if isinstance(item, Rejected) else source.make(item)
        for name, (_, item) in listed(source).items()
    }


def split_of(source: Source) -> dict[str, str]:
    return {name: split for name, (split, _) in listed(source).items()}
