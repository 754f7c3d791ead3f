"""The sources `cifar10` and `cifar100`: the official archives in their binary version.

The Python version consists of pickles, which could run code, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdeov.errors import DataError
from pipeline.artifacts.tables import reading
from pipeline.config.source_params import CifarParams
from pipeline.prepare.readers.array_rows import Table, array_rows
from pipeline.prepare.readers.base import Source

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def cifar10(path: Path, options: CifarParams, seed: int, max_image_side: int | None) -> Source:
    """Lists CIFAR-10; validation takes its share of the training images.

    Args:
        path: The folder `cifar-10-batches-bin`.
        options: Templates and the share of validation.
        seed: Seed of the choice of validation images.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.

    Raises:
        DataError: A file is missing or has another size.
    """
    names = _names(path / "batches.meta.txt", "cifar-10-binary.tar.gz")
    train = [path / f"data_batch_{number}.bin" for number in range(1, 6)]
    tables = {
        "train": _table("train", train, 1),
        "test": _table("test", [path / "test_batch.bin"], 1),
    }
    return array_rows(tables, names, options.templates, {"val": options.val}, seed, max_image_side)


def cifar100(path: Path, options: CifarParams, seed: int, max_image_side: int | None) -> Source:
    """Lists CIFAR-100 with its 100 fine classes; see `cifar10`.

    Args:
        path: The folder `cifar-100-binary`.
        options: Templates and the share of validation.
        seed: Seed of the choice of validation images.
        max_image_side: See `pipeline.prepare.images.encode_pixels`.

    Raises:
        DataError: A file is missing or has another size.
    """
    names = _names(path / "fine_label_names.txt", "cifar-100-binary.tar.gz")
    tables = {split: _table(split, [path / f"{split}.bin"], 2) for split in ("train", "test")}
    return array_rows(tables, names, options.templates, {"val": options.val}, seed, max_image_side)


def _names(path: Path, archive: str) -> list[str]:
    if (path.parent / "batches.meta").exists() or (path.parent / "meta").exists():
        raise DataError(
            f"{path.parent}: the Python version is refused, as pickles can run code; get {archive}"
        )
    with reading(path, f"prepare.path, which is the folder in {archive}"):
        return path.read_text(encoding="utf-8").split()


def _table(name: str, files: list[Path], label_bytes: int) -> Table:
    """The table of files whose records are label bytes, of which the last counts, then pixels."""
    records = [_records(path, label_bytes + PIXELS) for path in files]
    labels = np.concatenate([part[:, label_bytes - 1] for part in records])
    return Table(name, len(labels), labels, partial(_rows, files, label_bytes))


def _rows(files: list[Path], label_bytes: int) -> Iterator[np.ndarray]:
    for path in files:
        for record in _records(path, label_bytes + PIXELS):
            yield np.ascontiguousarray(record[label_bytes:].reshape(SHAPE).transpose(1, 2, 0))


def _records(path: Path, size: int) -> np.ndarray:
    """The file as uint8 [records, size], memory-mapped."""
    with reading(path, "prepare.path"):
        total = path.stat().st_size
        if total == 0 or total % size:
            raise DataError(
                f"{path}: {total} bytes are no multiple of a record of {size}; get it again"
            )
        return np.memmap(path, np.uint8, "r", shape=(total // size, size))
