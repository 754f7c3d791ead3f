"""Classes of boxes: those held out, and doubtful boxes, which are named and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kdeov.errors import ConfigError, DataError
from pipeline.config.source_params import CocoParams
from pipeline.prepare.readers.base import Sample, Source
from pipeline.prepare.sources.coco import coco
from pipeline.prepare.sources.object_classes import OV_COCO_BASE, OV_COCO_HELD_OUT

PART = {"images": "images", "captions": None, "instances": "boxes.json"}


def files(folder: Path, boxes: list[list[float]], **changes: Any) -> None:
    """Two images of 40 x 20: the first with boxes of a dog, the second with none."""
    (folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20)).save(folder / "images" / name)
    values = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in ("a", "b")
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "traffic_light"}],
        "annotations": [{"image_id": "a", "category_id": 1, "bbox": box} for box in boxes],
    }
    (folder / "boxes.json").write_text(json.dumps(values | changes), encoding="utf-8")


def listed(folder: Path, held_out: Any = None) -> Source:
    part = PART | {"instances": None, "captions": "captions.json"}
    (folder / "captions.json").write_text('{"images": [], "annotations": []}', encoding="utf-8")
    values = {"train": PART, "test": part, "val": 0.0, "held_out_objects": held_out}
    return coco(folder, CocoParams(**values), 0, None)


def test_images_come_from_the_instances_where_there_are_no_captions(tmp_path: Path) -> None:
    files(tmp_path, [[1, 1, 5, 5]])
    source = listed(tmp_path)
    samples = [source.make(item) for item in source.inputs["train"]]
    assert [s.source for s in samples] == ["images/a.png", "images/b.png"]
    assert all(isinstance(s, Sample) and s.captions == [] for s in samples)
    assert source.object_classes == ["dog", "traffic light"]
    assert source.held_out_objects == []


def test_a_list_of_names_is_held_out(tmp_path: Path) -> None:
    files(tmp_path, [[1, 1, 5, 5]])
    assert listed(tmp_path, ["traffic_light"]).held_out_objects == ["traffic light"]


@pytest.mark.parametrize(
    ("names", "words"), [(["dig"], "did you mean 'dog'"), (["dog", "dog"], "twice")]
)
def test_a_held_out_name_that_is_no_class_or_stands_twice_is_refused(
    tmp_path: Path, names: list[str], words: str
) -> None:
    files(tmp_path, [[1, 1, 5, 5]])
    with pytest.raises(ConfigError, match=words):
        listed(tmp_path, names)


def test_rare_categories_of_lvis_are_held_out(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "dog", "frequency": "f"},
        {"id": 2, "name": "abacus", "frequency": "r"},
    ]
    images = [
        {
            "id": "a", "width": 40, "height": 20, "coco_url": "http://host/images/a.png",
            "neg_category_ids": [2], "not_exhaustive_category_ids": [1],
        }
    ]  # fmt: skip
    files(tmp_path, [[1, 1, 5, 5]], categories=categories, images=images)
    part = PART | {"images": "."}
    values = {"train": part, "test": part, "val": 0.0, "held_out_objects": "lvis-rare"}
    source = coco(tmp_path, CocoParams(**values), 0, None)
    assert source.held_out_objects == ["abacus"]
    (sample,) = map(source.make, source.inputs["test"])
    assert isinstance(sample, Sample)
    assert (sample.extra["absent"], sample.extra["incomplete"]) == (["abacus"], ["dog"])


def test_rare_categories_without_frequencies_are_refused(tmp_path: Path) -> None:
    files(tmp_path, [[1, 1, 5, 5]])
    with pytest.raises(DataError, match="frequency"):
        listed(tmp_path, "lvis-rare")


def test_ov_coco_splits_the_classes_of_real_coco(shared_data: Path) -> None:
    options = yaml.safe_load(CocoParams.example) | {"held_out_objects": "ov-coco"}
    source = coco(shared_data / "coco_mini", CocoParams(**options), 0, None)
    assert len(source.object_classes) == 65
    assert set(source.held_out_objects) == set(OV_COCO_HELD_OUT)
    assert len(OV_COCO_HELD_OUT) == 17 and len(OV_COCO_BASE) == 48
    assert set(source.object_classes) == {*OV_COCO_BASE, *OV_COCO_HELD_OUT}


def test_boxes_of_corners_are_refused_where_it_can_be_told(tmp_path: Path) -> None:
    corners = [[20, 10, 38, 18], [15, 5, 30, 19], [25, 12, 39, 20], [1, 1, 4, 4]]
    files(tmp_path, corners)
    with pytest.raises(DataError, match=r"3 of 4 boxes .*left, top, right, bottom"):
        listed(tmp_path)


def test_doubtful_boxes_are_counted_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [[1, 1, 5, 5], [30, 1, 20, 5], [45, 1, 3, 3], [3, 3, 0, 4]]
    files(tmp_path, boxes)
    listed(tmp_path, ["traffic light"])
    text = caplog.text
    assert "2 of 4 boxes end outside their images" in text and "images/a.png (dog)" in text
    assert "2 of 4 boxes have no area" in text
    assert "1 of 2 images have no boxes: images/b.png" in text
    assert "1 of 2 classes have no box: traffic light" in text
    assert "no box in the test split" in text


def test_categories_of_one_name_are_one_class_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "dog"}]
    files(tmp_path, [[1, 1, 5, 5]], categories=categories)
    assert listed(tmp_path).object_classes == ["dog"]
    assert "dog (category 2)" in caplog.text


def test_annotations_of_images_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    files(tmp_path, [[1, 1, 5, 5]])
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).rename(tmp_path / name)
    with pytest.raises(DataError, match=r"none of 2 images .*prepare\.coco\.train\.images"):
        listed(tmp_path)
