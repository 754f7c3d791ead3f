"""Folders stand for splits or classes as a person would say, or are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.prepare.readers.split_folders import class_levels, split_of


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Train TRAIN training Training_Set train2017 trainset train-images", "train"),
        ("TrainImages traindata trainImgs TrainingData TRAINSET", "train"),
        ("testdata TestImages testFolder", "test"),
        ("val VALID validation Validation_Set val2017 dev", "val"),
        ("test Testing TEST_SET testset test_images evaluation", "test"),
    ],
)
def test_a_folder_is_named_after_a_split_in_any_case(names: str, split: str) -> None:
    assert {split_of(name) for name in names.split()} == {split}


@pytest.mark.parametrize(
    "name", ["cat", "trains", "freight train", "test tube", "seg_train", "", "set", "données train"]
)
def test_other_folders_are_named_after_none(name: str) -> None:
    assert split_of(name) is None


@pytest.mark.parametrize(
    ("names", "levels"),
    [
        (["cat/a.jpg", "dog/a.jpg"], {"train": "."}),
        (
            ["Training/cat/a.jpg", "Testing/cat/b.jpg", "notes.txt"],
            {"train": "Training", "test": "Testing"},
        ),
        (["TRAIN/cat/a.jpg", "Valid/cat/b.jpg"], {"train": "TRAIN", "val": "Valid"}),
        (["train/cat/a.jpg", "docs/a.txt"], {"train": "train"}),
        (
            ["train/cat/a.jpg", "test/cat/a.jpg", "unlabeled/a.jpg"],
            {"train": "train", "test": "test"},
        ),
        (["train/a.jpg", "bus/a.jpg", "car/deep/a.jpg"], {"train": "."}),  # a class called train
        (["test/a.jpg", "cat/a.jpg"], {"train": "."}),
        (["train/a.jpg", "test/a.jpg"], {"train": "train", "test": "test"}),  # without classes
        (["train/a.jpg"], {"train": "train"}),
        (
            ["seg_train/cat/a.jpg", "seg_test/cat/b.jpg", "seg_pred/c.jpg"],
            {"train": "seg_train", "test": "seg_test"},
        ),
        (["mask/a.jpg", "no_mask/b.jpg"], {"train": "."}),
        (["images/a.jpg", "cat/b.jpg"], {"train": "."}),
        (["freight train/a.jpg", "test tube/b.jpg"], {"train": "."}),
        (["catTrain/a.jpg", "testTube/b.jpg", "cat/c.jpg"], {"train": "."}),
        (["vehicles/train/a.jpg", "vehicles/bus/a.jpg", "pets/a.jpg"], {"train": "."}),
    ],
)  # fmt: skip
def test_classes_lie_at_the_level_that_is_meant(
    tmp_path: Path, names: list[str], levels: dict[str, str]
) -> None:
    put(tmp_path, *names)
    assert class_levels(tmp_path) == levels


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Train/cat/a.jpg", "training/cat/b.jpg"], ["Train", "training"]),
        (["test/cat/a.jpg", "val/cat/b.jpg"], ["test", "val", "train"]),
        (["Testing/cat/a.jpg", "cat/b.jpg"], ["Testing", "train"]),
        (["train/2020/a.jpg", "bus/a.jpg", "car/a.jpg"], ["train", "bus"]),
        (["train/a.jpg", "test/a.jpg", "cat/a.jpg"], ["train", "test", "cat"]),
        (["own/train/cat/a.jpg", "own/test/cat/b.jpg"], ["own", "train", "test", "prepare.path"]),
        (["bottle/train/a.jpg", "bottle/test/b.jpg", "bottle/mask/c.png"], ["bottle", "train"]),
        (["train_set/train_set/cat/a.jpg", "test_set/test_set/cat/b.jpg"], ["_set", "cat"]),
        (["own_train/own_train/cat/a.jpg", "own_test/cat/b.jpg"], ["own_train", "cat"]),
        (["own_test/cat/a.jpg", "own_val/cat/b.jpg"], ["own_test", "own_val", "train"]),
        (["trainA/a.jpg", "testA/b.jpg", "trainB/c.jpg", "testB/d.jpg"], ["trainA", "testB"]),
        (["cat_train/a.jpg", "cat_test/b.jpg", "dog_train/c.jpg", "dog_test/d.jpg"], ["dog_test"]),
        (["images/a.jpg", "labels/a.txt"], ["images", "labels", "class", "coco"]),
        (["train/images/a.jpg", "train/labels/a.txt", "valid/images/b.jpg"], ["images", "labels"]),
        (["Images/a.jpg", "Ground_Truth/a.png", "docs/a.txt"], ["Images", "Ground_Truth"]),
        (["JPEGImages/a.jpg", "SegmentationClass/a.png"], ["JPEGImages", "SegmentationClass"]),
        (["cat/Train/a.jpg", "cat/Val/b.jpg", "dog/Train/a.jpg"], ["cat", "Train", "Val"]),
    ],
)
def test_a_level_that_is_unclear_is_refused_by_name(
    tmp_path: Path, complains: Any, names: list[str], words: list[str]
) -> None:
    put(tmp_path, *names)
    with complains(tmp_path, *words):
        class_levels(tmp_path)


def test_a_class_folder_whose_folders_have_the_images_is_named(tmp_path: Path, log: Any) -> None:
    put(tmp_path, "pets/cat/a.jpg", "pets/dog/deep/b.jpg", "bird/c.jpg", "bird/old/d.jpg")
    assert class_levels(tmp_path) == {"train": "."}
    assert "1 of 2 class folders" in log.text and "pets (cat, dog)" in log.text
    log.clear()
    put(tmp_path, "pets/e.JPEG")
    class_levels(tmp_path)
    assert log.text == ""
