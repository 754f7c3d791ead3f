"""Metrics of detection follow from the detections beside them; what was seen is said so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdeov.detection.detector import Detector, Proposals, save_none
from kdeov.detection.nms import class_wise_nms
from kdeov.errors import DataError
from kdeov.evaluation.detection import Found, Objects, average_precision
from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.detection import detection
from pipeline.evaluation.objects.annotated import read_images, read_objects
from pipeline.evaluation.objects.finding import CLASS_BLOCK, detect
from pipeline.evaluation.shared.embeddings import read_arrays
from pipeline.evaluation.shared.student import student_of
from tests.helpers.box_heads import save_untrained_head
from tests.helpers.results import edit_json, read_metrics

pytestmark = pytest.mark.slow  # the first of these tests trains

MakeParams = Callable[..., Params]
Trained = tuple[Layout, Params]


def found_of(paths: Layout) -> dict[str, np.ndarray]:
    return read_arrays(paths.evaluation / "detection" / "found.npz")


def test_precision_follows_from_the_detections(trained: Trained) -> None:
    paths, params = trained
    scores, arrays = read_metrics(paths, "detection"), found_of(paths)
    objects = Objects(
        12,
        *(arrays[f"object_{name}"] for name in ("images", "boxes", "classes", "crowd")),
    )
    found = Found(*(arrays[name] for name in ("images", "boxes", "classes", "scores")))
    names = arrays["names"].tolist()
    curves = average_precision(objects, found, len(names), params.detection.max_detections)
    groups = {
        "base": np.flatnonzero(~arrays["held_out"]).tolist(),
        "held_out": np.flatnonzero(arrays["held_out"]).tolist(),
        "all": range(len(names)),
    }
    for group, numbers in groups.items():
        assert scores[group]["classes"] == len(numbers)
        for name, value in curves.summary(numbers).items():
            assert scores[group][name] == pytest.approx(value, abs=1e-3), name
    assert scores["count"] == 12
    assert sum(scores[g]["objects"] for g in ("base", "held_out")) == scores["all"]["objects"]


def test_boxes_seen_stand_beside_each_number(trained: Trained) -> None:
    paths, _ = trained
    scores = read_metrics(paths, "detection")
    assert (scores["base"]["boxes_seen"], scores["held_out"]["boxes_seen"]) == (56, 0)
    assert "transfer" not in scores and len(scores["boxes_seen"]) == 56


def test_held_out_classes_whose_boxes_were_seen_are_transfer(copied: Trained) -> None:
    paths, params = copied
    dataset = Dataset.read(paths.images)
    before = read_metrics(paths, "detection")
    seen, *others = dataset.held_out_objects
    save_untrained_head(params, paths, [*dataset.base_objects, seen.upper()])
    detection(params, paths)
    scores = read_metrics(paths, "detection")
    assert scores["transfer"]["classes"] == 1 and scores["transfer"]["boxes_seen"] == 1
    assert scores["held_out"]["classes"] == len(others) == 7
    assert scores["held_out"]["boxes_seen"] == 0
    assert scores["protocol_id"] != before["protocol_id"]
    save_untrained_head(params, paths, dataset.object_classes)
    detection(params, paths)
    assert "held_out" not in read_metrics(paths, "detection")


def test_the_protocol_names_vocabulary_and_detections_an_image(
    copied: Trained, make_params: MakeParams
) -> None:
    paths, params = copied
    before = read_metrics(paths, "detection")
    assert "64 classes" in before["protocol"] and "100 detections" in before["protocol"]
    fewer = make_params(detection={"max_detections": 5})
    detection(fewer, paths)
    after = read_metrics(paths, "detection")
    assert after["protocol_id"] != before["protocol_id"]
    assert np.bincount(found_of(paths)["images"]).max() <= 5
    edit_json(
        paths.images / "dataset.json", lambda v: v.update(object_classes=v["object_classes"][::-1])
    )
    detection(params, paths)
    assert read_metrics(paths, "detection")["protocol_id"] != before["protocol_id"]


def test_true_boxes_compare_regions_with_the_teachers_crops(trained: Trained) -> None:
    paths, _ = trained
    scores = read_metrics(paths, "detection")
    for group in ("base", "held_out"):
        row = scores["true_boxes"][group]
        assert row["student"]["boxes"] == scores[group]["objects"]
        assert 0 <= row["agreement"] <= 1
        for name in ("teacher", "student"):
            assert 0 <= row[name]["top1"] <= 1


def test_data_without_boxes_have_no_metrics_and_take_no_time(copied: Trained, log: Any) -> None:
    paths, params = copied
    (paths.teacher / "model.safetensors").unlink()  # nothing is loaded
    edit_json(
        paths.images / "dataset.json", lambda v: v.update(object_classes=[], held_out_objects=[])
    )
    detection(params, paths)
    assert read_metrics(paths, "detection") == {"absent": "scenes has no boxes"}
    assert "no detection" in log.text


def test_a_student_without_a_box_head_has_no_metrics(copied: Trained) -> None:
    paths, params = copied
    save_none(paths.boxes)
    detection(params, paths)
    assert "train_boxes.kind is none" in read_metrics(paths, "detection")["absent"]


def test_a_head_of_another_student_is_refused(copied: Trained) -> None:
    paths, params = copied
    edit_json(paths.boxes / "config.json", lambda v: v.update(student="another"))
    with pytest.raises(DataError, match="another student"):
        detection(params, paths)


def test_classes_in_blocks_find_what_all_at_once_do(trained: Trained) -> None:
    paths, params = trained
    detector = Detector.load(paths.boxes, student_of(paths, "cpu").student)
    rng = torch.Generator().manual_seed(0)
    size, dim = detector.image_size, detector.student.embed_dim
    with torch.no_grad():
        proposals = detector.propose(torch.randn(1, 3, size, size, generator=rng))
    classes = torch.randn(2 * CLASS_BLOCK + 7, dim, generator=rng)
    classes = torch.nn.functional.normalize(classes, dim=-1)
    options = params.detection
    scores = detector.scores(Proposals(*proposals), classes)[0]
    limits = (options.nms_iou, options.score_min, options.max_detections)
    whole = class_wise_nms(proposals.boxes[0], scores, *limits)
    parts = detect(detector, proposals, classes, options)
    assert len(whole.scores) == options.max_detections
    assert torch.allclose(parts.scores, whole.scores, atol=1e-6)
    assert (parts.classes == whole.classes).float().mean() > 0.95  # of equal scores, any may stay


def test_every_object_of_the_shards_is_read_or_counted(copied: Trained) -> None:
    paths, _ = copied
    dataset = Dataset.read(paths.images)
    every = read_objects(dataset, paths.images, None, "test")
    assert (every.other_classes, every.no_area, every.bare) == (0, 0, 0)
    assert len(every.keys) == len(list(read_images(paths.images, None, "test"))) == 12
    gone = dataset.object_classes[int(every.objects.classes[0])]
    edit_json(
        paths.images / "dataset.json",
        lambda v: v.update(object_classes=[n for n in v["object_classes"] if n != gone]),
    )
    fewer = read_objects(Dataset.read(paths.images), paths.images, None, "test")
    assert fewer.other_classes >= 1
    assert len(fewer.objects) + fewer.other_classes == len(every.objects)
