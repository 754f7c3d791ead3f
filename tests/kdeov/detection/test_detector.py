"""A detector: its proposals, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdeov.detection.boxes import grow
from kdeov.detection.detector import CONFIG, Detector, read_config, save_none
from kdeov.detection.head import BoxHead
from kdeov.detection.scores import ScoreParams
from kdeov.errors import ConfigError, DataError
from kdeov.models.student import VisualStudent

DIM = 32


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    student = VisualStudent("yolov8n", "film", DIM)
    head = BoxHead(student.backbone.channels, student.backbone.strides)
    return Detector(student, head, ScoreParams(9.0, -1.0, 0.4), 96, ["cat", "dog"], 0.2).eval()


def classes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(count, DIM, generator=generator), dim=-1)


@torch.no_grad()
def test_regions_do_not_depend_on_the_list_of_classes(detector: Detector) -> None:
    pixels = torch.randn(2, 3, 96, 96)
    proposals = detector.propose(pixels, top=50)
    assert proposals.boxes.shape == (2, 50, 4)
    assert proposals.boxes.min() >= 0 and proposals.boxes.max() <= 96
    assert (proposals.objectness.diff(dim=1) <= 0).all()
    torch.testing.assert_close(proposals.embeddings.norm(dim=-1), torch.ones(2, 50))
    before = [part.clone() for part in proposals]
    few, many = (detector.scores(proposals, classes(n)) for n in (4, 1004))
    assert (few - many[..., :4]).abs().max() <= 1e-6
    again = detector.propose(pixels, top=50)
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))


@torch.no_grad()
def test_the_embedding_of_a_proposal_is_that_of_its_region(detector: Detector) -> None:
    pixels = torch.randn(1, 3, 96, 96)
    for margin in (0.0, 0.3):
        detector.region_margin = margin
        found = detector.propose(pixels, top=20)
        around = grow(found.boxes, margin).clamp(0, 96)
        regions = F.normalize(detector.student.encode_regions(pixels, around), dim=-1)
        torch.testing.assert_close(found.embeddings, regions, atol=1e-5, rtol=0)


def test_boxes_are_in_pixels_of_the_image_as_given(detector: Detector) -> None:
    sizes = [(40, 20), (300, 500)]
    images = [Image.effect_noise(size, 80) for size in sizes]
    found = detector.detect(images, classes(3), score_min=0.0, max_detections=7)
    for (width, height), one in zip(sizes, found, strict=True):
        assert 1 <= len(one.scores) <= 7
        assert (one.boxes >= 0).all() and (one.boxes <= torch.tensor([width, height] * 2)).all()
        assert set(one.classes.tolist()) <= {0, 1, 2}


def test_classes_of_another_width_are_refused(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=r"\[K, 32\]"):
        detector.detect([], torch.randn(3, DIM + 1))


def test_a_saved_detector_is_the_same_and_leaves_the_student_alone(
    detector: Detector, tmp_path: Path
) -> None:
    detector.save(tmp_path / "boxes")
    loaded = Detector.load(tmp_path / "boxes", detector.student)
    assert (loaded.params, loaded.boxes_seen) == (detector.params, ["cat", "dog"])
    assert loaded.region_margin == 0.2
    images = [Image.effect_noise((60, 90), 70)]
    for one, two in zip(
        detector.detect(images, classes(5), 0.0), loaded.detect(images, classes(5), 0.0),
        strict=True,
    ):  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert {p.name for p in (tmp_path / "boxes").iterdir()} == {CONFIG, "boxes.safetensors"}


def test_a_head_of_another_student_is_refused(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    torch.manual_seed(5)
    with pytest.raises(DataError, match=r"another student.*train_boxes"):
        Detector.load(tmp_path, VisualStudent("yolov8n", "film", DIM))


@pytest.mark.parametrize("name", [CONFIG, "boxes.safetensors"])
def test_a_damaged_or_missing_file_is_named(detector: Detector, tmp_path: Path, name: str) -> None:
    detector.save(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=name):
        Detector.load(tmp_path, detector.student)
    path.unlink()
    with pytest.raises(DataError, match=name):
        Detector.load(tmp_path, detector.student)


def test_data_without_boxes_has_no_detector(detector: Detector, tmp_path: Path) -> None:
    save_none(tmp_path)
    assert read_config(tmp_path)["kind"] == "none"
    assert json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))["files"] == {}
    with pytest.raises(DataError, match=r"train_boxes\.kind"):
        Detector.load(tmp_path, detector.student)


def test_a_head_for_other_levels_is_refused(detector: Detector) -> None:
    head = BoxHead((64, 128), (16, 32))
    with pytest.raises(ConfigError, match=r"strides \(16, 32\)"):
        Detector(detector.student, head)
