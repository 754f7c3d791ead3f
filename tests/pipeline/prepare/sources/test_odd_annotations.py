"""A stray entry of COCO's or Karpathy's JSON rejects its image, or itself, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config.source_params import CocoParams, FlickrParams
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.sources.coco import coco
from pipeline.prepare.sources.flickr import flickr
from tests.helpers.sampling import made

NUM_IMAGES = 20


class Coco:
    """A data set of 20 images of 8 x 6 with a caption and a box each; `change` edits its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("train", "val"):
            (folder / part).mkdir()
            for number in range(NUM_IMAGES):
                Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / part / f"{number}.png")
        images = [{"id": n, "file_name": f"{n}.png"} for n in range(NUM_IMAGES)]
        captions = [{"image_id": n, "caption": f"caption {n}"} for n in range(NUM_IMAGES)]
        boxes = [{"image_id": n, "category_id": 1, "bbox": [1, 1, 3, 2]} for n in range(NUM_IMAGES)]
        self.captions: dict[str, Any] = {"images": images, "annotations": captions}
        self.instances: dict[str, Any] = {
            "images": [image | {"width": 8, "height": 6} for image in images],
            "categories": [{"id": 1, "name": "traffic_light"}],
            "annotations": boxes,
        }
        (folder / "val.json").write_text(json.dumps(self.captions), encoding="utf-8")

    def made(self) -> tuple[dict[str, Sample], dict[str, str]]:
        """Samples of the training part, and the reasons of what is rejected."""
        (self.folder / "train.json").write_text(json.dumps(self.captions), encoding="utf-8")
        (self.folder / "boxes.json").write_text(json.dumps(self.instances), encoding="utf-8")
        train = {"images": "train", "captions": "train.json", "instances": "boxes.json"}
        test = {"images": "val", "captions": "val.json", "instances": None}
        options = CocoParams(**{"train": train, "test": test, "val": 0.0})
        results = made(coco(self.folder, options, 0, None), "train")
        samples = {name: r for name, r in results.items() if isinstance(r, Sample)}
        rejected = {name: r.reason for name, r in results.items() if isinstance(r, Rejected)}
        return samples, rejected


@pytest.fixture
def data(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


def test_classes_of_boxes_are_spelled_as_all_classes_are(data: Coco) -> None:
    samples, rejected = data.made()
    assert len(samples) == NUM_IMAGES and rejected == {}
    assert samples["train/3.png"].extra["objects"][0]["name"] == "traffic light"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": []}, "bbox|box"),
        ({"bbox": None}, "None"),
        ({"bbox": [1, 2, 3]}, "1, 2, 3"),
        ({"bbox": [1, 2, "x", 4]}, "'x'"),
        ({"bbox": 5}, "5"),
        ({"category_id": 99}, "category 99"),
        ({"category_id": None}, "category_id"),
    ],
)
def test_a_stray_box_rejects_its_image_alone(data: Coco, change: Any, words: str) -> None:
    data.instances["annotations"][7] |= change
    samples, rejected = data.made()
    assert len(samples) == NUM_IMAGES - 1
    assert list(rejected) == ["train/7.png"]
    reason = rejected["train/7.png"]
    assert any(word in reason for word in words.split("|"))
    assert "unpack" not in reason and "NoneType" not in reason  # words of Python


def test_a_box_without_a_key_rejects_its_image_or_itself(data: Coco) -> None:
    del data.instances["annotations"][3]["bbox"]
    del data.instances["annotations"][4]["image_id"]
    data.instances["annotations"][5]["image_id"] = 999
    data.instances["annotations"].append("words")
    samples, rejected = data.made()
    assert len(samples) == NUM_IMAGES - 1
    assert set(rejected) == {
        "train/3.png",
        "boxes.json, annotations 4",
        f"boxes.json, annotations {NUM_IMAGES}",
        "boxes.json, image 999",
    }


def test_stray_captions_and_images_reject_themselves(data: Coco) -> None:
    data.captions["annotations"][2]["caption"] = ["a", "b"]
    del data.captions["images"][4]["file_name"]
    data.captions["images"].append(17)
    data.instances["images"][6]["width"] = None
    samples, rejected = data.made()
    assert len(samples) == NUM_IMAGES - 3
    assert {"train/2.png", "train/6.png", f"train.json, images {NUM_IMAGES}"} <= set(rejected)
    assert "width" in rejected["train/6.png"]
    assert "file_name" in rejected["train.json, image 4"]


def test_a_file_of_which_nothing_can_be_read_is_of_another_format(
    data: Coco, complains: Any
) -> None:
    for annotation in data.instances["annotations"]:
        annotation["bbox"] = {"left": 1}
    with complains(data.folder / "boxes.json", "instances", "left"):
        data.made()


def test_images_of_one_id_are_rejected_by_name(data: Coco) -> None:
    data.captions["images"][5]["id"] = 4
    samples, rejected = data.made()
    assert "train/4.png" not in samples and "train/5.png" not in samples
    assert "id 4" in rejected["train/4.png"] and "id 4" in rejected["train/5.png"]
    assert rejected["train.json, image 5"] == "captions of an image not listed"
    assert len(samples) == NUM_IMAGES - 2


def test_boxes_of_an_id_that_two_images_have_are_given_to_none(data: Coco) -> None:
    data.instances["images"][5]["id"] = 4
    samples, rejected = data.made()
    assert len(samples) == NUM_IMAGES - 2
    assert "id 4" in rejected["train/4.png"] and "no entry" in rejected["train/5.png"]


def test_boxes_of_another_image_of_the_id_are_not_taken(data: Coco) -> None:
    data.instances["images"][5]["file_name"] = "other.png"
    samples, rejected = data.made()
    assert set(rejected) == {"train/5.png"} and "other.png" in rejected["train/5.png"]
    assert len(samples) == NUM_IMAGES - 1


def test_a_category_of_two_names_is_refused(data: Coco, complains: Any) -> None:
    data.instances["categories"].append({"id": 1, "name": "dog"})
    with complains(data.folder / "boxes.json", "category 1", "traffic light", "dog"):
        data.made()


def test_names_are_compared_as_a_person_would(data: Coco) -> None:
    folder = data.folder / "train"
    (folder / "3.png").rename(folder / "caf\u00e9.png")
    data.instances["images"][3]["file_name"] = "./cafe\u0301.png"
    for number, name in enumerate(("./0.png", f"{folder}/1.png", ".//2.png", "cafe\u0301.png")):
        data.captions["images"][number]["file_name"] = name
    samples, rejected = data.made()
    assert {"train/0.png", "train/1.png", "train/2.png", "train/caf\u00e9.png"} <= set(samples)
    assert len(samples) == NUM_IMAGES and rejected == {}


def karpathy(folder: Path, *changes: Any) -> dict[str, Sample | Rejected]:
    (folder / "Images").mkdir(exist_ok=True)
    images: list[Any] = []
    for number in range(NUM_IMAGES):
        Image.new("RGB", (8, 6)).save(folder / "Images" / f"{number}.png")
        sentences = [{"raw": f"caption {number}"}]
        images.append({"filename": f"{number}.png", "split": "train", "sentences": sentences})
    for number, change in enumerate(changes):
        images[number] = images[number] | change if isinstance(change, dict) else change
    (folder / "all.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    options = FlickrParams(images="Images", captions="all.json", shares=None)
    return made(flickr(folder, options, 0, None))


def test_a_stray_image_of_karpathys_json_is_rejected_alone(tmp_path: Path) -> None:
    changes = [{"split": "holdout"}, {"sentences": [{"raw": 5}]}, {"sentences": None}, "words"]
    results = karpathy(tmp_path, *changes, {"filename": "./4.png"})
    rejected = {name: r.reason for name, r in results.items() if isinstance(r, Rejected)}
    assert set(rejected) == {f"all.json, {n}.png" for n in range(3)} | {"all.json, image 3"}
    assert "'holdout'" in rejected["all.json, 0.png"] and "5" in rejected["all.json, 1.png"]
    assert isinstance(results["4.png"], Sample)


@pytest.mark.parametrize(("value", "crowd"), [("0", False), ("false", False), ("1", True)])
def test_a_crowd_may_be_written_as_text(data: Coco, value: str, crowd: bool) -> None:
    data.instances["annotations"][3]["iscrowd"] = value
    samples, rejected = data.made()
    assert rejected == {} and samples["train/3.png"].extra["objects"][0]["crowd"] is crowd


@pytest.mark.parametrize("change", [{"bbox": "1132"}, {"iscrowd": "perhaps"}, {"iscrowd": []}])
def test_a_box_that_only_seems_to_be_one_rejects_its_image(data: Coco, change: Any) -> None:
    data.instances["annotations"][3] |= change
    _, rejected = data.made()
    assert list(rejected) == ["train/3.png"] and "annotations 3" in rejected["train/3.png"]


def test_boxes_in_shares_of_their_images_are_refused(data: Coco, complains: Any) -> None:
    for entry in data.instances["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.5, 0.8]
    with complains("boxes.json", "20 boxes", "pixels", "prepare.coco.train.instances"):
        data.made()
    data.instances["annotations"][3]["bbox"] = [0.1, 0.2, 3, 2]
    assert data.made()[1] == {}
