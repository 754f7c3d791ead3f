"""Classes and held-out classes follow from the images that are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.artifacts.shards import read_shard, sample_json
from pipeline.config.params import Params
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Sample
from pipeline.prepare.sources.scenes import Scenes
from tests.helpers.arrays import listed as listed_arrays
from tests.helpers.arrays import made as made_arrays
from tests.helpers.arrays import random_pixels, saved
from tests.helpers.captions_csv import made, put, source

MakeParams = Callable[..., Params]


def fill(folder: Path, *names: str, usable: bool = True) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if usable:
            Image.new("RGB", (8, 8), "red").save(path)
        else:
            path.write_bytes(b"words")


def prepared(make_params: MakeParams, folder: Path, out: Path) -> tuple[Dataset, set[int]]:
    """The data set of a folder of classes, and the labels that its shards hold."""
    section = {"templates": "plain", "class_names": None, "val": 0.3, "test": 0.3}
    changes = {"source": "image_folder", "image_folder": section, "max_rejected": 0.9}
    write_image_shards(make_params(prepare=changes | {"path": str(folder)}).prepare, out)
    labels = {
        sample_json(sample)["label"]
        for split in SPLITS
        for shard in sorted((out / split).glob("*.tar"))
        for _, sample in read_shard(shard)
    }
    return Dataset.read(out), labels


def test_a_folder_without_a_usable_image_is_no_class_and_is_named(
    tmp_path: Path, make_params: MakeParams, log: Any
) -> None:
    own = tmp_path / "own"
    fill(own, *(f"{name}/{n}.png" for name in ("ant", "dog", "zebra") for n in range(20)))
    fill(own, "bee/a.txt", "bee/b.jpg", "docs/readme.md", usable=False)
    (own / "empty").mkdir()
    dataset, labels = prepared(make_params, own, tmp_path / "out")
    assert dataset.classes == ["ant", "dog", "zebra"]
    assert labels == {0, 1, 2}
    assert "3 of 6 classes have no image: bee, docs, empty" in log.text


def test_a_class_whose_training_images_cannot_be_used_is_held_out(
    tmp_path: Path, make_params: MakeParams
) -> None:
    own = tmp_path / "own"
    for split in SPLITS:
        fill(own, f"{split}/cat/a.png", f"{split}/dog/a.png", usable=True)
    fill(own, "train/dog/a.png", usable=False)
    dataset, labels = prepared(make_params, own, tmp_path / "out")
    assert (dataset.classes, dataset.held_out, labels) == (["cat", "dog"], ["dog"], {0, 1})


def test_a_label_of_missing_images_is_no_class(tmp_path: Path, log: Any) -> None:
    put(tmp_path, "a.jpg", "c.jpg")
    rows = [("a.jpg", "x", "ant"), ("b.jpg", "y", "bee"), ("c.jpg", "z", "cat")]
    labelled = source(tmp_path, rows, label_column="label", val=0, test=0)
    assert labelled.classes == ["ant", "cat"]
    results = made(labelled)
    labels = {name: r.label for name, r in results.items() if isinstance(r, Sample)}
    assert labels == {"a.jpg": 0, "c.jpg": 1}
    assert "1 of 3 classes have no image: bee" in log.text


def test_a_class_without_a_row_is_left_out_of_an_array(tmp_path: Path, log: Any) -> None:
    pixels = {"train_x": random_pixels(4, 4, 4, 3), "train_y": np.array([0, 2, 0, 2])}
    pixels |= {"test_x": random_pixels(2, 4, 4, 3), "test_y": np.array([2, 0])}
    arrays = listed_arrays(saved(tmp_path, **pixels), templates="simple")
    assert (arrays.classes, arrays.held_out) == (["cat", "dog"], [])
    samples = [sample for sample in made_arrays(arrays, "test") if isinstance(sample, Sample)]
    assert [(s.label, s.captions) for s in samples] == [
        (1, ["a photo of a dog."]),
        (0, ["a photo of a cat."]),
    ]
    assert "1 of 3 classes have no image: polar bear" in log.text


@pytest.mark.parametrize(("train", "held_out"), [(10, 54), (56, 8), (4000, 8)])
def test_scenes_hold_out_the_classes_that_are_not_drawn_for_training(
    params: Params, train: int, held_out: int
) -> None:
    scenes = Scenes(params.prepare.path, 0, {"train": train, "val": 64, "test": 64})
    drawn = {scenes.pairs.index(scenes.training_pairs[n % 56]) for n in range(train)}
    assert len(scenes.held_out) == held_out
    assert not {scenes.classes[label] for label in drawn} & set(scenes.held_out)


@pytest.mark.parametrize("name", ["_", "\u200b", " _ "])
def test_a_class_without_a_name_is_refused(tmp_path: Path, complains: Any, name: str) -> None:
    with complains("class 1", "name"):
        listed_arrays(saved(tmp_path, classes=np.array(["cat", name, "dog"])))
