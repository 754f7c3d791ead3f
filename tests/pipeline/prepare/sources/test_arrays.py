"""Images that are rows of arrays become samples, or are refused with a reason."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shards import KEY
from pipeline.config.params import Params
from pipeline.prepare.readers.base import Rejected, Sample
from tests.helpers.arrays import EXAMPLE, given, listed, made, part, random_pixels, saved, unpacked


def test_rows_become_images_with_class_and_captions(tmp_path: Path) -> None:
    path = saved(tmp_path)
    source = listed(path, templates="simple")
    assert source.classes == ["cat", "polar bear", "dog"]
    assert source.held_out == ["dog"]
    samples = made(source, "test")
    assert [s.label for s in samples if isinstance(s, Sample)] == [0, 1, 2, 0]
    assert isinstance(samples[1], Sample)
    assert (samples[1].key, samples[1].source) == ("test_x-0000001", "test_x/1")
    assert samples[1].captions == ["a photo of a polar bear."]
    train = [s.key for s in made(source, "train", "val") if isinstance(s, Sample)]
    assert sorted(train) == [f"train_x-{n:07d}" for n in range(10)]


def test_splits_may_take_rows_of_one_array(tmp_path: Path) -> None:
    splits = {
        "train": part("train_x", "train_y", [2, 7]),
        "val": part("train_x", "train_y", [0, 2]),
        "test": part("train_x", "train_y", [8, 10]),
    }
    for path in (saved(tmp_path), unpacked(tmp_path / "folder")):
        source = listed(path, splits=splits)
        samples = {split: made(source, split) for split in SPLITS}
        numbers = {"train": range(2, 7), "val": range(2), "test": range(8, 10)}
        for split, rows in numbers.items():
            for row, sample in zip(rows, samples[split], strict=True):
                assert isinstance(sample, Sample)
                assert (sample.key, sample.source) == (f"train_x-{row:07d}", f"train_x/{row}")
                assert sample.label == row % 2
                stored = np.asarray(Image.open(io.BytesIO(sample.jpeg)), int)
                assert np.abs(stored - given()["train_x"][row]).mean() < 3


def test_rows_that_are_split_by_hash_stay_where_they_are_when_others_are_taken(
    tmp_path: Path,
) -> None:
    pixels = {"train_x": random_pixels(200, 4, 4, 3), "train_y": np.zeros(200, int)}
    path = saved(tmp_path, **pixels)
    found = []
    for rows in (None, [50, 150]):
        splits = EXAMPLE["splits"] | {"train": part("train_x", "train_y", rows)}
        source = listed(path, splits=splits, val=0.3)
        found.append({s: {r.number for r in source.inputs[s]} for s in ("train", "val")})
    assert found[1] == {s: {n for n in found[0][s] if 50 <= n < 150} for s in found[0]}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (None, [3, 4], "train and test both take rows 3 to 3 of train_x"),
        ([0, 5], [4, 10], "both take rows 4 to 4 of train_x"),
        ([0, 5], [5, 11], "prepare.arrays.splits.test.rows ends at 11"),
    ],
)
def test_rows_of_two_splits_and_rows_of_none_are_refused(
    tmp_path: Path, complains: Any, one: Any, other: Any, words: str
) -> None:
    splits = {
        "train": part("train_x", "train_y", one), "val": None,
        "test": part("train_x", "train_y", other),
    }  # fmt: skip
    with complains(words):
        listed(saved(tmp_path), splits=splits)


@pytest.mark.parametrize("rows", [[5, 5], [-1, 5], [3], "all"])
def test_rows_that_are_none_are_named(
    tmp_path: Path, make_params: Callable[..., Params], complains: Any, rows: Any
) -> None:
    splits = EXAMPLE["splits"] | {"train": part("train_x", "train_y", rows)}
    section = {"source": "arrays", "path": "x.npz", "arrays": EXAMPLE | {"splits": splits}}
    with complains("prepare.arrays.splits.train.rows"):
        make_params(prepare=section)


def test_images_without_labels_have_no_captions(tmp_path: Path) -> None:
    splits = EXAMPLE["splits"] | {"train": part("train_x", None)}
    source = listed(saved(tmp_path), splits=splits, templates=None)
    train, test = made(source, "train", "val"), made(source, "test")
    assert {(s.label, *s.captions) for s in train if isinstance(s, Sample)} == {(None,)}
    assert [s.label for s in test if isinstance(s, Sample)] == [0, 1, 2, 0]
    assert all(isinstance(s, Sample) and s.captions == [] for s in test)
    assert (source.classes, source.held_out) == (["cat", "polar bear", "dog"], [])
    splits = {"train": part("train_x", None), "val": None, "test": None}
    options = {"splits": splits, "templates": None, "class_names": None, "test": 0.3}
    bare = listed(saved(tmp_path), **options)
    assert (len(made(bare)), bare.classes, bare.held_out) == (10, [], [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "prepare.arrays.templates"),
        ({"templates": None, "class_names": None}, "prepare.arrays.class_names is null; name"),
        ({"templates": None, "test": None}, "prepare.arrays.class_names"),
    ],
)
def test_what_needs_labels_and_has_none_is_named(
    tmp_path: Path, complains: Any, options: dict[str, Any], words: str
) -> None:
    test = EXAMPLE["splits"]["test"] if "test" not in options else None
    splits = {"train": part("train_x", None), "val": None, "test": test}
    changes = {name: value for name, value in options.items() if name != "test"}
    with complains(words):
        listed(saved(tmp_path), splits=splits, **changes)


def test_names_of_arrays_that_are_no_keys_give_some(tmp_path: Path) -> None:
    pixels = {"a b": random_pixels(3, 4, 4, 3), "a/b": random_pixels(3, 4, 4, 3)}
    splits = {"train": part("a b", None), "val": None, "test": part("a/b", None)}
    options = {"splits": splits, "templates": None, "class_names": None}
    np.savez(tmp_path / "data.npz", **pixels)
    samples = [s for s in made(listed(tmp_path / "data.npz", **options)) if isinstance(s, Sample)]
    assert {s.source for s in samples} == {f"a{c}b/{n}" for c in " /" for n in range(3)}
    keys = {s.key for s in samples}
    assert len(keys) == 6 and all(KEY.match(key) for key in keys)


def test_real_images_hardly_change(shared_data: Path) -> None:
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
    assert made(listed(unpacked(tmp_path / "folder"))) == made(listed(saved(tmp_path)))


def test_a_folder_that_holds_an_archive_is_not_taken_for_one_of_arrays(
    tmp_path: Path, complains: Any
) -> None:
    saved(tmp_path)
    with complains(tmp_path / "train_x.npy", "No such file", "name the archive, data.npz, itself"):
        listed(tmp_path)


def test_a_split_without_arrays_takes_its_share_of_the_training_images(tmp_path: Path) -> None:
    pixels = {"train_x": random_pixels(200, 4, 4, 3), "train_y": np.zeros(200, int)}
    splits = EXAMPLE["splits"] | {"test": None}
    source = listed(saved(tmp_path, **pixels), splits=splits, test=0.5)
    counts = {split: len(source.inputs[split]) for split in SPLITS}
    assert sum(counts.values()) == 200 == len(made(source))
    assert counts["test"] == pytest.approx(100, abs=25)


def test_gray_images_and_labels_in_a_column_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path, train_x=random_pixels(10, 6, 8), train_y=np.zeros((10, 1), int))
    (sample, *_) = made(listed(path), "train")
    assert isinstance(sample, Sample) and sample.label == 0
    assert Image.open(io.BytesIO(sample.jpeg)).mode == "RGB"


def test_a_label_without_a_class_is_rejected(tmp_path: Path) -> None:
    results = made(listed(saved(tmp_path, test_y=np.array([0, 3, -1, 2]))), "test")
    reasons = {r.name: r.reason for r in results if isinstance(r, Rejected)}
    assert reasons == {
        "test_x/1": "label 3, but there are 3 classes",
        "test_x/2": "label -1, but there are 3 classes",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_x": random_pixels(10, 3, 6, 8)}, "train_x is [10, 3, 6, 8]; "),
        ({"train_x": random_pixels(10, 0, 8, 3)}, "train_x is [10, 0, 8, 3]; "),
        ({"train_x": np.zeros((10, 6, 8, 3))}, "train_x is float64 [10, 6, 8, 3]"),
        ({"train_x": np.zeros((10, 6, 8, 3))}, "scaled to 0 to 255"),
        ({"train_x": np.asfortranarray(random_pixels(10, 6, 8, 3))}, "column"),
        ({"train_y": np.arange(9)}, "train_y is int64 [9]"),
        ({"train_y": np.zeros(10)}, "train_y is float64"),
        ({"train_y": np.array([None] * 10)}, "Object arrays cannot be loaded"),
        ({"classes": np.array([b"cat", b"caf\xe9", b"dog"])}, "classes is not UTF-8"),
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
