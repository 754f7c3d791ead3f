"""A YOLO's own neck and head on the student's trunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.detection.coco import COCO_CLASSES
from kdeov.detection.detector import Detector, read_config
from kdeov.detection.letterbox import Letterbox
from kdeov.detection.nms import class_wise_nms
from kdeov.detection.pretrained import PretrainedHead
from kdeov.errors import ConfigError, DataError
from kdeov.evaluation.detection import Found, Objects, average_precision
from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.student import VisualStudent
from kdeov.models.yolo import import_ultralytics, read_yolo

SIDE, CONFIDENCE, IOU, MOST = 640, 0.001, 0.7, 300
IMAGES = 79
PIXELS = torch.rand(1, 3, 64, 64)


class Real(NamedTuple):
    """Genuine weights and photographs."""

    weights: Path
    coco: Path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a whole detector."""
    torch.manual_seed(0)
    model = import_ultralytics("nn.tasks").DetectionModel("yolov8n.yaml", verbose=False)
    path = tmp_path_factory.mktemp("weights") / "yolov8n.pt"
    torch.save(model.state_dict(), path)
    return path


def test_boxes_and_classes_are_those_of_the_whole_detector(weights: Path) -> None:
    trunk = LightweightVisualBackbone("yolov8n", weights).eval()
    head = PretrainedHead.of(trunk, weights)
    whole = import_ultralytics("nn.tasks").DetectionModel("yolov8n.yaml", verbose=False).eval()
    whole.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        boxes, logits = head.class_logits(trunk.trunk(pixels))
        expected = whole(pixels)[0].transpose(1, 2)
        best = head(trunk.trunk(pixels))[1]
    centers, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    torch.testing.assert_close(
        torch.cat([centers, sizes, logits.sigmoid()], dim=-1), expected, atol=1e-3, rtol=1e-4
    )
    assert torch.equal(best, logits.amax(-1))


def test_a_trunk_that_was_trained_is_refused(weights: Path) -> None:
    trunk = LightweightVisualBackbone("yolov8n", weights)
    with torch.no_grad():
        next(trunk.trunk.network.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(DataError, match=r"backbone_learning_rate to 0"):
        PretrainedHead.of(trunk, weights)


def test_a_saved_detector_with_such_a_head_is_the_same(weights: Path, tmp_path: Path) -> None:
    student = VisualStudent("yolov8n", "film", 8, weights).eval()
    head = PretrainedHead.of(student.backbone, weights)
    detector = Detector(student, head, None, 64, COCO_CLASSES).eval()
    detector.save(tmp_path / "boxes")
    loaded = Detector.load(tmp_path / "boxes", student)
    assert read_config(tmp_path / "boxes")["kind"] == "pretrained"
    assert loaded.boxes_seen == list(COCO_CLASSES)
    with torch.no_grad():
        for one, two in zip(detector.propose(PIXELS), loaded.propose(PIXELS), strict=True):
            assert torch.equal(one, two)


def test_weights_of_a_trunk_alone_are_refused(weights: Path, tmp_path: Path) -> None:
    state = {
        name: value
        for name, value in torch.load(weights, weights_only=True).items()
        if int(name.split(".")[1]) < 10
    }
    torch.save(state, tmp_path / "trunk.pt")
    trunk = LightweightVisualBackbone("yolov8n", tmp_path / "trunk.pt")
    with pytest.raises(DataError, match="whole detector"):
        PretrainedHead.of(trunk, tmp_path / "trunk.pt")


def test_a_trunk_without_a_box_head_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="timm:resnet18"):
        PretrainedHead.of(LightweightVisualBackbone("timm:resnet18"), weights)


def test_classes_of_coco_are_in_the_order_of_the_head() -> None:
    names = import_ultralytics("utils").YAML.load(
        import_ultralytics("utils").ROOT / "cfg/datasets/coco.yaml"
    )["names"]
    assert tuple(names.values()) == COCO_CLASSES


@pytest.mark.slow
def test_recall_is_that_of_ultralytics_own_validation(shared_data: Path, tmp_path: Path) -> None:
    data = Real(shared_data / "yolo/yolov8n_state_dict.pt", shared_data / "coco_mini")
    annotations = json.loads(
        (data.coco / "annotations/instances_val2017.json").read_text(encoding="utf-8")
    )
    numbers = {c["id"]: COCO_CLASSES.index(c["name"]) for c in annotations["categories"]}
    places = {image["id"]: place for place, image in enumerate(annotations["images"])}
    objects = objects_of(annotations, numbers, places)
    theirs = average_precision(objects, predictions(data, annotations, numbers, tmp_path), 80)
    ours = average_precision(objects, found(data, annotations), 80)
    assert len(places) == IMAGES
    assert theirs.summary()["ar"] > 0.5
    for key in ("ar", "ap"):
        assert ours.summary()[key] == pytest.approx(theirs.summary()[key], abs=1e-3)


def objects_of(
    annotations: dict[str, Any], numbers: dict[int, int], places: dict[int, int]
) -> Objects:
    things = annotations["annotations"]
    boxes = np.array([thing["bbox"] for thing in things], dtype=float)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        len(places),
        np.array([places[thing["image_id"]] for thing in things]),
        boxes,
        np.array([numbers[thing["category_id"]] for thing in things]),
        np.array([bool(thing["iscrowd"]) for thing in things]),
    )


@torch.no_grad()
def found(data: Real, annotations: dict[str, Any]) -> Found:
    """Through our letterbox, trunk and suppression."""
    student = VisualStudent("yolov8n", "film", 8, data.weights).eval()
    head = PretrainedHead.of(student.backbone, data.weights)
    images = []
    for image in annotations["images"]:
        with Image.open(data.coco / "val2017" / image["file_name"]) as opened:
            fit = Letterbox.fit(opened.size, SIDE)
            pixels = torch.from_numpy(fit.pixels(opened, "bilinear")).float()[None] / 255
        boxes, logits = head.class_logits(student.backbone.trunk(pixels))
        kept = class_wise_nms(boxes[0], logits[0].sigmoid(), IOU, CONFIDENCE, MOST)
        images.append((fit.to_image(kept.boxes.numpy()), kept.scores.numpy(), kept.classes.numpy()))
    return Found.of(images)


def predictions(
    data: Real, annotations: dict[str, Any], numbers: dict[int, int], folder: Path
) -> Found:
    """Through ultralytics' own validation, in squares, as written to its file."""
    names = {image["id"]: image["file_name"] for image in annotations["images"]}
    for place in ("images", "labels"):
        (folder / place / "val").mkdir(parents=True)
    for image in annotations["images"]:
        file = data.coco / "val2017" / image["file_name"]
        (folder / "images/val" / file.name).symlink_to(file.resolve())
        rows = []
        for thing in annotations["annotations"]:
            if thing["image_id"] == image["id"] and not thing["iscrowd"]:
                left, top, width, height = thing["bbox"]
                center = (left + width / 2) / image["width"], (top + height / 2) / image["height"]
                size = width / image["width"], height / image["height"]
                rows.append(" ".join(map(str, (numbers[thing["category_id"]], *center, *size))))
        (folder / "labels/val" / f"{file.stem}.txt").write_text("\n".join(rows), encoding="utf-8")
    listed = json.dumps(dict(enumerate(COCO_CLASSES)))
    (folder / "data.yaml").write_text(
        f"path: {folder}\ntrain: images/val\nval: images/val\nnames: {listed}\n", encoding="utf-8"
    )
    model = import_ultralytics("models.yolo.model").YOLO("yolov8n.yaml", task="detect")
    state = {f"model.{n.removeprefix('model.')}": v for n, v in read_yolo(data.weights).items()}
    model.model.load_state_dict(state, strict=False)
    model.val(
        data=str(folder / "data.yaml"), imgsz=SIDE, rect=False, conf=CONFIDENCE, iou=IOU,
        max_det=MOST, batch=8, workers=0, device="cpu", plots=False, save_json=True,
        project=str(folder), name="run", verbose=False,
    )  # fmt: skip
    entries = json.loads((folder / "run/predictions.json").read_text(encoding="utf-8"))
    place = {int(Path(name).stem): number for number, name in enumerate(names.values())}
    by_image: list[list[dict[str, Any]]] = [[] for _ in names]
    for entry in entries:
        by_image[place[entry["image_id"]]].append(entry)
    images = []
    for rows_of_image in by_image:
        boxes = np.array([entry["bbox"] for entry in rows_of_image], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([entry["score"] for entry in rows_of_image], dtype=float)
        classes = np.array([entry["category_id"] - 1 for entry in rows_of_image], dtype=int)
        images.append((boxes, scores, classes))
    return Found.of(images)
