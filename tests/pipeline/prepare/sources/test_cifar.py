"""CIFAR is read from its binary archives alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.source_params import CifarParams
from pipeline.prepare.readers.base import Sample, Source
from pipeline.prepare.sources.cifar import cifar10, cifar100
from tests.helpers.arrays import made

CIFAR = CifarParams(templates="simple", val=0.2)


def write_cifar(folder: Path, *names: str, label_bytes: int, records: int = 20) -> None:
    for name in names:
        labels = np.tile(np.arange(records, dtype=np.uint8)[:, None] % 2, (1, label_bytes))
        pixels = np.zeros((records, 3, 32, 32), np.uint8)
        pixels[:, 0], pixels[:, 1, 16:] = 200, 100  # red above, orange below
        data = np.concatenate([labels, pixels.reshape(records, -1)], axis=1)
        (folder / name).write_bytes(data.tobytes())


def check_cifar(source: Source, num_images: int) -> None:
    assert len(made(source, "train", "val")) == num_images
    assert len(source.inputs["val"]) == pytest.approx(num_images / 5, abs=num_images / 8)
    samples = [s for s in made(source, "test") if isinstance(s, Sample)]
    assert [s.label for s in samples] == [0, 1] * 10
    assert samples[1].captions == ["a photo of a polar bear."]
    image = Image.open(io.BytesIO(samples[0].jpeg))
    assert image.getpixel((16, 4)) == pytest.approx((200, 0, 0), abs=3)
    assert image.getpixel((16, 28)) == pytest.approx((200, 100, 0), abs=3)


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    train = [f"data_batch_{n}.bin" for n in range(1, 6)]
    write_cifar(tmp_path, *train, "test_batch.bin", label_bytes=1)
    (tmp_path / "batches.meta.txt").write_text("cat\npolar_bear\n\n", encoding="utf-8")
    check_cifar(cifar10(tmp_path, CIFAR, 0, 64), 100)


def test_cifar100_is_read_with_its_fine_classes(tmp_path: Path) -> None:
    write_cifar(tmp_path, "train.bin", "test.bin", label_bytes=2)
    (tmp_path / "fine_label_names.txt").write_text("cat\npolar_bear\n", encoding="utf-8")
    check_cifar(cifar100(tmp_path, CIFAR, 0, 64), 20)


def test_pickles_of_cifar_are_refused_with_the_archive_to_get(
    tmp_path: Path, complains: Any
) -> None:
    (tmp_path / "batches.meta").write_bytes(b"")
    with complains(tmp_path, "pickles", "cifar-10-binary.tar.gz"):
        cifar10(tmp_path, CIFAR, 0, 64)


def test_a_truncated_or_missing_file_of_cifar_is_named(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "fine_label_names.txt", "cifar-100-binary.tar.gz"):
        cifar100(tmp_path, CIFAR, 0, 64)
    (tmp_path / "fine_label_names.txt").write_text("cat\n", encoding="utf-8")
    write_cifar(tmp_path, "train.bin", label_bytes=2)
    with complains(tmp_path / "test.bin", "No such file"):
        cifar100(tmp_path, CIFAR, 0, 64)
    (tmp_path / "test.bin").write_bytes(b"12345")
    with complains(tmp_path / "test.bin", "of 3074"):
        cifar100(tmp_path, CIFAR, 0, 64)
