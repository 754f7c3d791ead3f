"""Objects that an export finds are those of the detector in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kdeov.runtime.card import DETECT, GOLDEN
from kdeov.runtime.detections import Regions, Selection
from kdeov.runtime.model import Model
from kdeov.runtime.session import Session
from tests.helpers.exported import small_detector
from tests.kdeov.runtime.copies import golden_arrays, npz

LABELS = ["cat", "dog", "a red ball", "two\nlines"]
SOME = Selection(min_score=0.3, nms_iou=0.5, max_detections=40)
EXIF_ORIENTATION = 274


@pytest.fixture(scope="module")
def opened(tower):
    return Model.open(tower.folder, threads=1)


@pytest.fixture(scope="module")
def images(image):
    return [image(size, sum(size)) for size in ((96, 96), (200, 80), (33, 150), (40, 41))]


@pytest.fixture
def passes(monkeypatch):
    """File names of the session's runs."""
    made, run = [], Session.__call__

    def count(self, **inputs):
        made.append(self.path.name)
        return run(self, **inputs)

    monkeypatch.setattr(Session, "__call__", count)
    return made


def test_objects_are_those_of_pytorch(opened, tower, images):
    classes = opened.class_embeddings(LABELS)
    wanted = small_detector(tower.model).detect(images, torch.from_numpy(classes), 0.3, 0.5, 40)
    found = opened.detect(images, LABELS, selection=SOME)
    assert sum(len(one.scores) for one in found) > 20
    for one, other in zip(found, wanted, strict=True):
        assert one.boxes.dtype == one.scores.dtype == np.float32
        np.testing.assert_allclose(one.scores, other.scores.numpy(), atol=1e-4)
        np.testing.assert_array_equal(one.classes, other.classes.numpy())
        np.testing.assert_allclose(one.boxes, other.boxes.numpy(), atol=0.01)


def test_boxes_are_pixels_of_the_upright_image(opened, images, tmp_path):
    upright = images[1]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned to the right
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png", exif=exif)
    plain, found = (opened.detect(x, LABELS)[0] for x in (upright, tmp_path / "turned.png"))
    np.testing.assert_array_equal(found.boxes, plain.boxes)
    assert found.boxes.min() >= 0
    assert (found.boxes.max(axis=0) <= [200, 80, 200, 80]).all() and found.boxes.max() > 96


def test_another_class_list_reuses_the_regions(opened, images, passes):
    regions = opened.propose(images)
    assert passes == [DETECT] * len(images)
    first = opened.score(regions, opened.class_embeddings(LABELS), selection=SOME)
    passes.clear()
    for labels in (LABELS, LABELS[:2], ["something else"] * 3):
        found = opened.score(regions, labels, selection=SOME)
        assert len(found) == len(images)
    assert set(passes) == {"text.onnx"}  # no pass over an image
    again = opened.detect(images, LABELS, selection=SOME)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.classes, other.classes)


def test_names_of_classes_come_with_the_objects(opened, images):
    (found,) = opened.detect(images[0], LABELS)
    assert found.labels == [LABELS[number].replace("\n", " ") for number in found.classes]
    (regions,) = opened.propose(images[0])
    (numbered,) = opened.score(regions, opened.class_embeddings(LABELS))
    assert numbered.labels == [str(number) for number in found.classes]


def test_a_thousand_more_names_change_no_score(opened, images):
    (regions,) = opened.propose(images[0])
    every = Selection(min_score=0, max_detections=10**6)
    classes = opened.class_embeddings(LABELS)
    rows = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    (few,) = opened.score(regions, classes, selection=every)
    (many,) = opened.score(regions, np.concatenate([classes, rows]), selection=every)
    same = many.classes < len(LABELS)
    np.testing.assert_array_equal(many.boxes[same], few.boxes)
    np.testing.assert_allclose(many.scores[same], few.scores, rtol=0, atol=1e-6)


def test_scores_are_those_of_the_file(opened, tower, images):
    """Which holds the same formula in its graph."""
    arrays = golden_arrays(tower.folder)
    values = (arrays[f"detect_{name}"] for name in ("boxes", "objectness", "embeddings", "boxes"))
    every = Selection(min_score=0, nms_iou=1, max_detections=10**6)
    (found,) = opened.score(Regions(*values, size=(96, 96)), arrays["classes"], selection=every)
    np.testing.assert_allclose(
        found.scores, np.sort(arrays["detect_scores"].ravel())[::-1], atol=1e-6
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 2)])
def test_images_of_extreme_shapes_have_boxes_inside(opened, size):
    (regions,) = opened.propose(Image.new("RGB", size, "red"))
    assert regions.size == size
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (regions.boxes >= 0).all() and (regions.boxes <= [*size, *size]).all()


def test_an_export_without_a_head_names_the_stage(tower, altered, images, mistake):
    folder = altered(tower.folder, {DETECT: None}, detection=None)
    with mistake(folder, DETECT, "dvc repro export", "--boxes"):
        Model.open(folder).detect(images, LABELS)


@pytest.mark.parametrize("change", ["boxes", "objectness", "embeddings", "nan", "shape", "missing"])
def test_outputs_that_do_not_fit_are_reported_with_file_and_provider(
    change, tower, altered, images, mistake
):
    golden = golden_arrays(tower.folder)
    if change == "shape":
        golden["detect_boxes"] = golden["detect_boxes"][:9]
    elif change == "missing":
        del golden["detect_boxes"]
    elif change == "nan":
        golden["detect_embeddings"] = np.nan * golden["detect_embeddings"]
    else:
        golden[f"detect_{change}"] = golden[f"detect_{change}"][::-1].copy()
    opened = Model.open(altered(tower.folder, {GOLDEN: npz(golden)}))
    with mistake(*(["detect_boxes", GOLDEN] if change == "missing" else [DETECT, "CPU"])):
        opened.propose(images)


def test_images_and_names_that_are_none_are_reported(opened, tmp_path, images, mistake):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with mistake(tmp_path / "bad.jpg"):
        opened.detect([images[0], tmp_path / "bad.jpg"], LABELS)
    with mistake("no image was given"):
        opened.propose([])
    for labels in ([], "cat", np.zeros((2, 31))):
        with mistake():
            opened.detect(images, labels)
