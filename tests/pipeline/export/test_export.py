"""The stage `export` in a checkout whose student is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.detection.detector import Detector, save_none
from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import DETECT, INT8, read_card
from kdeov.runtime.detections import Selection
from kdeov.runtime.model import Model
from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.export.export import export
from tests.helpers.exported import small_detector, small_model

Copied = tuple[Layout, Params]


@pytest.mark.slow
def test_the_export_embeds_as_the_trained_student(
    copied: Copied, make_params: Callable[..., Params]
) -> None:
    paths, _ = copied
    settings = {"calibration_images": 16, "background_images": 10, "teacher_license": "MIT"}
    export(make_params(export=settings), paths)
    card, record = read_card(paths.export), RunRecord.read(paths.student)
    assert (card.fingerprint, card.name) == (record.fingerprint, record.name)
    metrics = json.loads((paths.metrics / "distill.json").read_text(encoding="utf-8"))
    assert card.metrics == {"val_cosine": metrics["val_cosine"]}
    assert card.int8["agreement_of"] == "top-1 class"
    assert card.int8["images"] + card.int8["calibration"]["images"] == 16
    assert card.licenses["data"] == "scenes: generated here"
    assert card.licenses["teacher"] == "MIT"
    assert "AGPL-3.0" in card.licenses["backbone"]
    student, exported = KDEOVModel.load(paths.student, "cpu"), Model.open(paths.export)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = student.encode_image(image).numpy()
        texts = student.encode_text(["a red circle", "two squares"]).numpy()
    np.testing.assert_allclose(exported.embed_image([image]), expected, atol=1e-4)
    found = exported.embed_text(["a red circle", "two squares"])
    assert (found * texts).sum(axis=1).min() >= 0.9999
    background = exported.background()
    assert background is not None and background.shape == (10, exported.embed_dim)


@pytest.mark.slow
def test_no_calibration_images_leave_int8_out(
    copied: Copied, make_params: Callable[..., Params]
) -> None:
    paths, _ = copied
    export(make_params(export={"calibration_images": 0}), paths)
    card = read_card(paths.export)
    assert INT8 not in card.files and not card.int8


@pytest.mark.slow
def test_boxes_are_exported_where_the_data_has_them(
    copied: Copied, make_params: Callable[..., Params]
) -> None:
    paths, _ = copied
    model = KDEOVModel.load(paths.student, "cpu")
    small_detector(model).save(paths.boxes)
    quick = make_params(export={"calibration_images": 0})
    export(quick, paths)
    card = read_card(paths.export)
    assert card.detection is not None and DETECT in card.files
    assert card.detection.boxes_seen == ("a cat", "a dog")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    exported = Model.open(paths.export)
    classes = exported.class_embeddings(["red circle", "blue star"])
    limits = Selection(min_score=0.1, nms_iou=0.5, max_detections=20)
    (found,) = exported.detect(image, classes, selection=limits)
    detector = Detector.load(paths.boxes, model.student)
    (wanted,) = detector.detect([image], torch.from_numpy(classes), 0.1, 0.5, 20)
    assert len(found.scores) > 0
    np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-4)
    save_none(paths.boxes)
    export(quick, paths)
    card = read_card(paths.export)
    assert card.detection is None and not (paths.export / DETECT).exists()


@pytest.mark.slow
def test_a_head_of_another_student_is_refused(
    copied: Copied, make_params: Callable[..., Params], complains: Callable[..., Any]
) -> None:
    paths, _ = copied
    small_detector(small_model()).save(paths.boxes)
    with complains("out/boxes", "another student", "train_boxes"):
        export(make_params(export={"calibration_images": 0}), paths)


@pytest.mark.slow
def test_metrics_of_another_run_are_refused(
    copied: Copied, make_params: Callable[..., Params], complains: Callable[..., Any]
) -> None:
    paths, _ = copied
    path = paths.metrics / "distill.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.", "1."), encoding="utf-8")
    before = (paths.export / "card.json").read_bytes()
    with complains("distill.json", "dvc repro"):
        export(make_params(export={"calibration_images": 0}), paths)
    assert (paths.export / "card.json").read_bytes() == before
