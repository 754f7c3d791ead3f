"""Pictures that lie as pixels in one file: arrays, and CIFAR's binary archives."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.dataset import SPLITS, Dataset
from pipeline.params import Params
from pipeline.prepare import prepare
from pipeline.source_params import ArraysParams, CifarParams
from pipeline.sources.arrays import arrays
from pipeline.sources.base import Rejected, Sample, Source
from pipeline.sources.cifar import cifar10, cifar100

EXAMPLE: dict[str, Any] = yaml.safe_load(ArraysParams.example)
CIFAR = CifarParams(templates="simple", val=0.2)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def given(**changes: Any) -> dict[str, Any]:
    """The arrays of the example, ten pictures for training and four for test."""
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


def made(source: Source, *splits: str) -> list[Sample | Rejected]:
    return [source.make(item) for split in splits or SPLITS for item in source.inputs[split]]


def test_rows_become_pictures_with_class_and_captions(tmp_path: Path) -> None:
    path = saved(tmp_path)
    source = listed(path, templates="simple")
    assert source.classes == ["cat", "polar bear", "dog"]
    assert source.held_out == ["dog"]
    samples = made(source, "test")
    assert [s.label for s in samples if isinstance(s, Sample)] == [0, 1, 2, 0]
    assert isinstance(samples[1], Sample)
    assert samples[1].key == "test_x-0000001"
    assert samples[1].captions == ["a photo of a polar bear."]
    train = [s.key for s in made(source, "train", "val") if isinstance(s, Sample)]
    assert sorted(train) == [f"train_x-{n:07d}" for n in range(10)]


def test_real_pictures_hardly_change(shared_data: Path) -> None:
    path = shared_data / "cifar10" / "cifar10_train5000_test2000.npz"
    source = listed(path)
    assert [len(source.inputs[split]) for split in ("train", "val", "test")] == pytest.approx(
        [4500, 500, 2000], abs=80
    )
    pixels = np.load(path)["test_x"]
    for number, row in zip(range(50), source.inputs["test"], strict=False):
        sample = source.make(row)
        assert isinstance(sample, Sample)
        stored = np.asarray(Image.open(io.BytesIO(sample.jpeg)), dtype=int)
        assert np.abs(stored - pixels[number]).max() <= 4


def test_a_folder_of_arrays_is_the_same_as_an_archive(tmp_path: Path) -> None:
    for name, values in given().items():
        np.save(tmp_path / f"{name}.npy", values)
    assert made(listed(tmp_path)) == made(listed(saved(tmp_path)))


def test_a_split_without_arrays_takes_its_share_of_the_training_pictures(tmp_path: Path) -> None:
    pixels = {"train_x": random_pixels(200, 4, 4, 3), "train_y": np.zeros(200, int)}
    splits = EXAMPLE["splits"] | {"test": None}
    source = listed(saved(tmp_path, **pixels), splits=splits, test=0.5)
    counts = {split: len(source.inputs[split]) for split in SPLITS}
    assert sum(counts.values()) == 200 == len(made(source))
    assert counts["test"] == pytest.approx(100, abs=25)


def test_grey_pictures_and_labels_in_a_column_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path, train_x=random_pixels(10, 6, 8), train_y=np.zeros((10, 1), int))
    (sample, *_) = made(listed(path), "train")
    assert isinstance(sample, Sample) and sample.label == 0
    assert Image.open(io.BytesIO(sample.jpeg)).mode == "RGB"


def test_a_label_without_a_class_is_rejected(tmp_path: Path) -> None:
    results = made(listed(saved(tmp_path, test_y=np.array([0, 3, -1, 2]))), "test")
    reasons = {r.name: r.reason for r in results if isinstance(r, Rejected)}
    assert reasons == {"test_x/1": "label 3 of 3 classes", "test_x/2": "label -1 of 3 classes"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_x": random_pixels(10, 3, 6, 8)}, "train_x is [10, 3, 6, 8]; pictures are"),
        ({"train_x": np.zeros((10, 6, 8, 3))}, "train_x is float64 [10, 6, 8, 3]"),
        ({"train_x": np.asfortranarray(random_pixels(10, 6, 8, 3))}, "stored by column"),
        ({"train_y": np.arange(9)}, "train_y is int64 [9], and train_x has 10 pictures"),
        ({"train_y": np.zeros(10)}, "train_y is float64"),
        ({"train_y": np.array([None] * 10)}, "Object arrays cannot be loaded"),
        ({"classes": np.array([["cat"]])}, "classes is <U3 [1, 1]"),
        ({"classes": np.array(["a_b", "a b"])}, "two classes are called 'a b'"),
    ],
)
def test_arrays_that_cannot_be_used_are_explained(
    tmp_path: Path, complains: Any, changes: dict[str, Any], words: str
) -> None:
    with complains(words):
        listed(saved(tmp_path, **changes))


def test_missing_and_damaged_files_are_named(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "data.npz", "No such file", "prepare.path"):
        listed(tmp_path / "data.npz")
    with complains(tmp_path / "train_x.npy", "No such file", "prepare.arrays"):
        listed(tmp_path)
    path = saved(tmp_path)
    with complains("no array 'labels'", "its arrays are train_x, train_y", "prepare.arrays"):
        listed(path, class_names="labels")
    path.write_bytes(path.read_bytes()[:-200])
    with complains(path, "cannot be read"):
        listed(path)
    np.save(tmp_path / "train_x.npy", random_pixels(10, 6, 8, 3))
    for name in ("train_y", "test_x", "test_y", "classes"):
        np.save(tmp_path / f"{name}.npy", given()[name])
    whole = (tmp_path / "train_x.npy").read_bytes()
    (tmp_path / "train_x.npy").write_bytes(whole[:-100])
    with complains("train_x is truncated at row 9 of 10"):
        made(listed(tmp_path))


def test_reading_holds_a_few_rows_whatever_their_number(tmp_path: Path) -> None:
    pixels = {"train_x": np.zeros((4000, 32, 32, 3), np.uint8), "train_y": np.zeros(4000, int)}
    source = listed(saved(tmp_path, **pixels))
    tracemalloc.start()
    assert sum(1 for _ in source.inputs["train"]) > 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # of 12 million bytes


def write_cifar(folder: Path, *names: str, label_bytes: int, records: int = 20) -> None:
    for name in names:
        labels = np.tile(np.arange(records, dtype=np.uint8)[:, None] % 2, (1, label_bytes))
        pixels = np.zeros((records, 3, 32, 32), np.uint8)
        pixels[:, 0], pixels[:, 1, 16:] = 200, 100  # red above, orange below
        data = np.concatenate([labels, pixels.reshape(records, -1)], axis=1)
        (folder / name).write_bytes(data.tobytes())


def check_cifar(source: Source, pictures: int) -> None:
    assert len(made(source, "train", "val")) == pictures
    assert len(source.inputs["val"]) == pytest.approx(pictures / 5, abs=pictures / 8)
    samples = [s for s in made(source, "test") if isinstance(s, Sample)]
    assert [s.label for s in samples] == [0, 1] * 10
    assert samples[1].captions == ["a photo of a polar bear."]
    image = Image.open(io.BytesIO(samples[0].jpeg))
    assert image.getpixel((16, 4)) == pytest.approx((200, 0, 0), abs=3)
    assert image.getpixel((16, 28)) == pytest.approx((200, 100, 0), abs=3)


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    train = [f"data_batch_{n}.bin" for n in range(1, 6)]
    write_cifar(tmp_path, *train, "test_batch.bin", label_bytes=1)
    (tmp_path / "batches.meta.txt").write_text("cat\npolar_bear\n\n")
    check_cifar(cifar10(tmp_path, CIFAR, 0, 64), 100)


def test_cifar100_is_read_with_its_fine_classes(tmp_path: Path) -> None:
    write_cifar(tmp_path, "train.bin", "test.bin", label_bytes=2)
    (tmp_path / "fine_label_names.txt").write_text("cat\npolar_bear\n")
    check_cifar(cifar100(tmp_path, CIFAR, 0, 64), 20)


def test_pickles_of_cifar_are_refused_with_the_archive_to_get(
    tmp_path: Path, complains: Any
) -> None:
    (tmp_path / "batches.meta").write_bytes(b"")
    with complains(tmp_path, "pickles could run code", "cifar-10-binary.tar.gz"):
        cifar10(tmp_path, CIFAR, 0, 64)


def test_a_truncated_or_missing_file_of_cifar_is_named(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "fine_label_names.txt", "cifar-100-binary.tar.gz"):
        cifar100(tmp_path, CIFAR, 0, 64)
    (tmp_path / "fine_label_names.txt").write_text("cat\n")
    write_cifar(tmp_path, "train.bin", label_bytes=2)
    with complains(tmp_path / "test.bin", "No such file"):
        cifar100(tmp_path, CIFAR, 0, 64)
    (tmp_path / "test.bin").write_bytes(b"12345")
    with complains(tmp_path / "test.bin", "5 bytes are no records of 3074"):
        cifar100(tmp_path, CIFAR, 0, 64)


def test_arrays_go_through_prepare_in_any_number_of_processes(
    tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    pixels = {"train_x": random_pixels(60, 8, 8, 3), "train_y": np.arange(60) % 3}
    section = EXAMPLE | {"val": 0.3}
    path = str(saved(tmp_path, **pixels))
    params = make_params(prepare={"source": "arrays", "path": path, "arrays": section})
    found = []
    for processes in (1, 2):
        prepare(params.prepare, tmp_path / str(processes), processes)
        found.append(
            [
                json.loads((tmp_path / str(processes) / s / "manifest.json").read_text())
                for s in SPLITS
            ]
        )
    assert found[0] == found[1]
    assert sum(Dataset.read(tmp_path / "1").samples.values()) == 64
