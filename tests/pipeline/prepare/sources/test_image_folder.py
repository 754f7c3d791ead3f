"""Class folders: splits of their own or by hash, captions from templates, odd folders by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.config.params import Params
from pipeline.config.source_params import ImageFolderParams
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.sources.image_folder import image_folder
from tests.helpers.sampling import made


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / name)


def listed(folder: Path, **options: Any) -> Source:
    values = {"templates": "simple", "class_names": None, "val": 0.2, "test": 0.2}
    return image_folder(folder, ImageFolderParams(**values | options), 0, 64)


def test_a_folder_is_a_class_and_captions_follow_from_its_name(tmp_path: Path) -> None:
    put(tmp_path, "polar_bear/a.jpg", "cat/deep/b.png")
    source = listed(tmp_path)
    assert source.classes == ["cat", "polar bear"]
    samples = made(source)
    bear, cat = samples["polar_bear/a.jpg"], samples["cat/deep/b.png"]
    assert isinstance(bear, Sample) and isinstance(cat, Sample)
    assert (bear.label, bear.captions) == (1, ["a photo of a polar bear."])
    assert (cat.label, cat.captions, cat.key) == (0, ["a photo of a cat."], "cat_deep_b")
    (plain, *_) = made(listed(tmp_path, templates="plain")).values()
    assert isinstance(plain, Sample) and len(plain.captions) == 5


def test_without_templates_images_have_a_class_and_no_captions(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg")
    (sample,) = made(listed(tmp_path, templates=None)).values()
    assert isinstance(sample, Sample) and (sample.label, sample.captions) == (0, [])


def test_folders_of_splits_are_the_official_ones(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.jpg", "train/dog/a.jpg", "val/cat/b.jpg", "test/bird/c.jpg")
    source = listed(tmp_path)
    assert set(made(source, "train")) == {"train/cat/a.jpg", "train/dog/a.jpg"}
    assert set(made(source, "val")) == {"val/cat/b.jpg"}
    assert set(made(source, "test")) == {"test/bird/c.jpg"}
    assert source.classes == ["bird", "cat", "dog"]
    assert source.held_out == ["bird"]


def test_folders_of_splits_may_be_spelled_otherwise(tmp_path: Path) -> None:
    put(tmp_path, "Training/cat/a.jpg", "Training/dog/a.jpg", "valid/cat/b.jpg")
    put(tmp_path, *(f"Testing/{name}/c.jpg" for name in ("cat", "bird")))
    source = listed(tmp_path)
    assert source.classes == ["bird", "cat", "dog"] and source.held_out == ["bird"]
    assert set(made(source, "train")) == {"Training/cat/a.jpg", "Training/dog/a.jpg"}
    assert set(made(source, "val")) == {"valid/cat/b.jpg"}
    assert set(made(source, "test")) == {"Testing/cat/c.jpg", "Testing/bird/c.jpg"}


def test_a_class_may_be_spelled_otherwise_in_each_split(tmp_path: Path) -> None:
    put(tmp_path, "train/polar_bear/a.jpg", "train/cafe\u0301/a.jpg")
    put(tmp_path, "test/polar bear/b.jpg", "test/caf\u00e9/b.jpg")
    source = listed(tmp_path)
    assert source.classes == ["caf\u00e9", "polar bear"] and source.held_out == []
    labels = {name: s.label for name, s in made(source).items() if isinstance(s, Sample)}
    assert sorted(labels.values()) == [0, 0, 1, 1]


def test_a_split_without_a_folder_takes_its_share_of_the_training_images(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/cat/{n}.jpg" for n in range(100)), "val/cat/b.jpg")
    source = listed(tmp_path, val=0.5)
    counts = {split: len(source.inputs[split]) for split in SPLITS}
    assert counts["val"] == 1 and counts["train"] + counts["test"] == 100
    assert counts["test"] == pytest.approx(20, abs=12)


def test_without_training_folder_val_and_test_are_classes(tmp_path: Path) -> None:
    put(tmp_path, "val/a.jpg", "cat/b.jpg")
    assert listed(tmp_path).classes == ["cat", "val"]


def test_images_stay_in_their_split_when_others_are_added(tmp_path: Path) -> None:
    put(tmp_path, *(f"cat/{n}.jpg" for n in range(30)))
    before = {split: set(made(listed(tmp_path), split)) for split in SPLITS}
    put(tmp_path, *(f"ant/{n}.jpg" for n in range(30)))
    after = {split: set(made(listed(tmp_path), split)) for split in SPLITS}
    assert all(before[split] <= after[split] for split in SPLITS)


def test_classes_with_few_images_are_said_and_kept(tmp_path: Path, log: Any) -> None:
    put(tmp_path, "cat/a.jpg", "dog/b.jpg", "dog/c.jpg")
    (tmp_path / "bird").mkdir()
    assert listed(tmp_path).classes == ["cat", "dog"]
    assert "1 of 3 classes have one image: cat" in log.text
    assert "1 of 3 classes have no image: bird" in log.text


def test_what_is_no_image_of_a_class_is_rejected_by_name(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "loose.jpg", "elsewhere/real/b.jpg", "cat/.hidden.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("words", encoding="utf-8")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    results = made(listed(tmp_path))
    reasons = {name: r.reason for name, r in results.items() if isinstance(r, Rejected)}
    assert reasons == {
        "loose.jpg": "lies in no class folder",
        "cat/notes.txt": "not an image",
        "cat/more": "a link to a folder",
    }
    assert set(results) - set(reasons) == {"cat/a.jpg", "elsewhere/real/b.jpg"}


def test_a_file_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg")
    (tmp_path / "cat" / "a.jpg").rename(tmp_path / "cat" / "caf\udce9.jpg")
    (result,) = made(listed(tmp_path)).values()
    assert isinstance(result, Rejected) and "UTF-8" in result.reason


def test_folders_that_are_no_splits_are_reported(tmp_path: Path, log: Any) -> None:
    put(tmp_path, "train/cat/a.jpg", "extra/cat/b.jpg")
    assert len(made(listed(tmp_path))) == 1
    assert "splits: extra" in log.text


def test_names_of_classes_may_come_from_a_file(tmp_path: Path, complains: Any) -> None:
    put(tmp_path, "n01/a.jpg", "n02/b.jpg")
    table = tmp_path / "names.json"
    table.write_text(
        json.dumps({"n01": "tench", "n02": "goldfish", "n03": "shark"}), encoding="utf-8"
    )
    source = listed(tmp_path, class_names="names.json")
    assert source.classes == ["goldfish", "tench"] and len(made(source)) == 2
    table.write_text(json.dumps({"n01": "tench"}), encoding="utf-8")
    with complains(table, "'n02'"):
        listed(tmp_path, class_names="names.json")
    table.write_text(json.dumps({"n01": "tench", "n02": " \u200b"}), encoding="utf-8")
    with complains(table, "'n02'"):
        listed(tmp_path, class_names="./names.json")
    with complains(tmp_path / "none.json", "prepare.image_folder.class_names"):
        listed(tmp_path, class_names="none.json")


def test_two_folders_of_one_class_are_refused(tmp_path: Path, complains: Any) -> None:
    put(tmp_path, "polar bear/a.jpg", "polar_bear/b.jpg")
    with complains("'polar bear' and 'polar_bear' are both called 'polar bear'"):
        listed(tmp_path)


def test_a_folder_whose_name_is_blank_is_refused(tmp_path: Path, complains: Any) -> None:
    put(tmp_path, "_/a.jpg", "cat/b.jpg")
    with complains("'_'", "rename"):
        listed(tmp_path)


def test_a_missing_folder_and_a_missing_template_set_are_named(
    tmp_path: Path, complains: Any
) -> None:
    with complains(tmp_path / "none", "check prepare.path"):
        listed(tmp_path / "none")
    with complains("'many' is unknown"):
        listed(tmp_path, templates="many")


def test_class_folders_go_through_prepare(
    tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    put(tmp_path / "own", *(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(20)))
    section = {"templates": "plain", "class_names": None, "val": 0.3, "test": 0.3}
    params = make_params(
        prepare={"source": "image_folder", "path": str(tmp_path / "own"), "image_folder": section}
    )
    write_image_shards(params.prepare, tmp_path / "out")
    dataset = Dataset.read(tmp_path / "out")
    assert dataset.classes == ["cat", "dog"]
    assert sum(dataset.samples.values()) == 40


def test_classes_that_differ_in_capitals_alone_are_named(tmp_path: Path, log: Any) -> None:
    put(tmp_path, "train/Cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg", "test/dog/d.jpg")
    assert listed(tmp_path).classes == ["Cat", "cat", "dog"]
    assert "2 of 3 classes have the name of another but for capitals: Cat, cat" in log.text
