"""The stage: its files, and what it says of data that it cannot use."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kdeov.detection.coco import COCO_CLASSES
from kdeov.detection.detector import Detector, read_config
from kdeov.models.model import KDEOVModel
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import RunRecord
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.boxes.samples import BoxShards, Census
from pipeline.boxes.train_boxes import boxes_seen, train_boxes
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.checked import read_checked_json

MakeParams = Callable[..., Params]


def rewrite(layout: Layout, split: str, edit: Callable[[int, dict[str, Any]], None]) -> None:
    """Edits the descriptions of a split's images."""
    folder = ShardFolder(layout.images / split)
    manifest, shards, number = folder.manifest(), [], 0
    for shard in manifest.shards:
        samples = [sample for _, sample in folder.read(shard)]
        for sample in samples:
            description = json.loads(sample["json"])
            edit(number, description)
            sample["json"] = json.dumps(description).encode()
            for key in [key for key in sample if key.startswith("__") and key != "__key__"]:
                del sample[key]
            number += 1
        shards.append(folder.write(shard.name, samples))
    replace(manifest, shards=shards).write(folder.path)
    Dataset.write(replace(dataset_of(layout), manifests={}), layout.images)


def dataset_of(layout: Layout) -> Dataset:
    values = json.loads((layout.images / "dataset.json").read_text(encoding="utf-8"))
    del values["digest"]
    return Dataset(**values)


def test_a_box_head_is_trained_and_its_score_fitted(
    checkout: Layout, make_params: MakeParams
) -> None:
    params = make_params()
    train_boxes(params, checkout)
    student = KDEOVModel.load(checkout.student).student
    detector = Detector.load(checkout.boxes, student)
    base = dataset_of(checkout).base_objects
    assert detector.boxes_seen == base
    assert not set(detector.boxes_seen) & set(dataset_of(checkout).held_out_objects)
    assert 0 < detector.params.beta < 1
    assert math.isfinite(detector.params.scale)
    metrics = read_checked_json(checkout.metrics / "train_boxes.json")
    assert metrics["kind"] == "trained"
    assert metrics["score"] == detector.params.to_dict()
    assert metrics["train_split"]["images"] == 24
    assert metrics["train_split"]["problems"] == {}
    rows = list(csv.DictReader((checkout.metrics / "boxes_history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    before = (checkout.boxes / "boxes.safetensors").read_bytes()
    train_boxes(params, checkout)  # the same run, which has ended
    assert (checkout.boxes / "boxes.safetensors").read_bytes() == before


def test_data_without_boxes_has_no_head(checkout: Layout, make_params: MakeParams) -> None:
    train_boxes(make_params(train_boxes={"kind": "none"}), checkout)
    assert read_config(checkout.boxes)["kind"] == "none"
    assert read_checked_json(checkout.metrics / "train_boxes.json") == {"kind": "none"}
    (checkout.boxes / "config.json").unlink()
    empty = replace(dataset_of(checkout), object_classes=[], held_out_objects=[], manifests={})
    empty.write(checkout.images)
    train_boxes(make_params(), checkout)
    assert read_config(checkout.boxes)["kind"] == "none"


def test_boxes_that_cannot_be_used_are_an_error(
    checkout: Layout, make_params: MakeParams, complains: Any
) -> None:
    rewrite(checkout, "train", lambda _, values: values.pop("objects"))
    with complains("images/train", "train_boxes.kind to none"):
        train_boxes(make_params(), checkout)
    dataset = dataset_of(checkout)
    replace(dataset, held_out_objects=dataset.object_classes, manifests={}).write(checkout.images)
    with complains("no boxes of base classes", "train_boxes.kind"):
        train_boxes(make_params(), checkout)


@pytest.mark.slow
def test_doubtful_boxes_are_named_and_counted(
    checkout: Layout, caplog: pytest.LogCaptureFixture, make_params: MakeParams
) -> None:
    base = dataset_of(checkout).base_objects[0]
    broken = {
        0: [200, 10, 240, 30], 1: [10, 10, 10, 30], 2: [10, math.nan, 30, 40],
        3: [70, 70, 20, 20], 4: [-9, 10, 30, 40], 5: [70, 20, 90, 20],
    }  # fmt: skip

    def edit(number: int, description: dict[str, Any]) -> None:
        description["objects"] = (
            [{"name": base, "box": broken[number]}]
            if number in broken
            else []
            if number == 6
            else description["objects"]
        )

    rewrite(checkout, "train", edit)
    with caplog.at_level(logging.WARNING):
        train_boxes(make_params(), checkout)
    found = read_checked_json(checkout.metrics / "train_boxes.json")["train_split"]
    assert {name: value["boxes"] for name, value in found["problems"].items()} == {
        "outside": 1, "no area": 2, "not finite": 1, "partly outside": 1,
        "left, top, width, height": 1,
    }  # fmt: skip
    assert found["problems"]["outside"]["examples"] == [f"train-0000000 ({base})"]
    assert found["images_without_boxes"] == 6
    for text in ("1 boxes are outside: train-0000000", "not finite: train-0000002"):
        assert text in caplog.text


def test_boxes_of_held_out_and_unknown_classes_are_left_out_and_counted(checkout: Layout) -> None:
    dataset = dataset_of(checkout)
    shards = BoxShards(ShardFolder(checkout.images / "val"), dataset.base_objects)
    census = Census.of(shards)
    everything = Census.of(BoxShards(ShardFolder(checkout.images / "val"), dataset.object_classes))
    assert census.boxes.total() + census.others == everything.boxes.total()
    assert set(census.empty_classes) <= set(dataset.base_objects)
    assert Manifest.read(checkout.images / "val").samples == census.images


def test_weights_of_a_detector_have_seen_the_boxes_of_coco(with_student: Layout) -> None:
    record, dataset = RunRecord.read(with_student.student), dataset_of(with_student)
    assert boxes_seen(record, dataset, "trained") == dataset.base_objects
    distill = {**record.params["distill"], "backbone_weights": "yolov8n.pt"}
    pretrained = replace(record, params={**record.params, "distill": distill})
    assert boxes_seen(pretrained, dataset, "trained") == [*dataset.base_objects, *COCO_CLASSES]
    assert boxes_seen(pretrained, dataset, "pretrained") == list(COCO_CLASSES)
    other = replace(record, params={"distill": {**distill, "backbone": "timm:resnet18"}})
    assert boxes_seen(other, dataset, "trained") == dataset.base_objects


def test_a_pretrained_head_without_its_weights_is_refused(
    checkout: Layout, make_params: MakeParams, complains: Any
) -> None:
    with complains("distill.backbone_weights", "train_boxes.kind"):
        train_boxes(make_params(train_boxes={"kind": "pretrained"}), checkout)
