"""`detect.onnx` against the detector in PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdeov.detection.scores import ScoreParams
from kdeov.export.detect import DetectGraph, DetectReference, write_detect
from kdeov.export.onnx import Session
from kdeov.runtime.card import DETECT, GOLDEN, DetectionCard
from kdeov.runtime.golden import matching_rows
from tests.helpers.exported import BOX_SIZE, small_detector, small_images, small_model


@pytest.fixture(scope="module")
def detector():
    return small_detector(small_model("table"))


@pytest.fixture(scope="module")
def session(yolo):
    return Session(yolo.read(DETECT))


def real_pixels(seed):
    """An image of another kind than those of the export, uint8 [1, 3, BOX_SIZE, BOX_SIZE]."""
    pixels = torch.from_numpy(small_images(1, seed))
    full = nn.functional.interpolate(pixels.float(), (BOX_SIZE, BOX_SIZE), mode="bilinear")
    return full.round().to(torch.uint8).numpy()


@pytest.mark.parametrize("count", [1, 4, 1203])
def test_the_file_gives_the_detectors_proposals_and_scores(session, detector, count):
    rows = np.random.default_rng(count).standard_normal((count, 32)).astype(np.float32)
    inputs = {"pixels": real_pixels(count), "classes": rows}
    found = session(inputs)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    expected = DetectReference(detector)({**inputs, "classes": rows / lengths})
    assert {name: x.shape for name, x in found.items()} == {
        "boxes": (189, 4), "objectness": (189,), "embeddings": (189, 32), "scores": (189, count),
    }  # fmt: skip
    order = matching_rows(*(x[n] for x in (found, expected) for n in ("boxes", "objectness")))
    assert sorted(order) == list(range(189))
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name][order], values, atol=1e-3 if name == "boxes" else 1e-4
        )


def test_boxes_lie_inside_the_input_by_descending_objectness(session):
    found = session({"pixels": real_pixels(7), "classes": np.ones((1, 32), np.float32)})
    assert found["boxes"].min() >= 0 and found["boxes"].max() <= BOX_SIZE
    assert (np.diff(found["objectness"]) <= 0).all()
    assert found["objectness"][0] > 0.6 > 0.4 > found["objectness"][-1]
    np.testing.assert_allclose(np.linalg.norm(found["embeddings"], axis=1), 1, atol=1e-5)


def test_other_classes_change_no_score(session):
    few, more = (np.random.default_rng(n).standard_normal((n, 32)).astype(np.float32)
                 for n in (3, 1000))  # fmt: skip
    pixels = real_pixels(5)
    alone = session({"pixels": pixels, "classes": few})
    among = session({"pixels": pixels, "classes": np.concatenate([few, more])})
    np.testing.assert_allclose(among["scores"][:, :3], alone["scores"], rtol=0, atol=1e-6)
    for name in ("boxes", "objectness", "embeddings"):
        np.testing.assert_array_equal(among[name], alone[name])


def test_the_card_and_the_golden_outputs_are_the_detectors(yolo, detector):
    params = detector.params
    assert yolo.card.detection == DetectionCard(
        BOX_SIZE, params.scale, params.bias, params.beta, ("a cat", "a dog")
    )
    with np.load(yolo.folder / GOLDEN, allow_pickle=False) as file:
        golden = dict(file)
    inputs = {"pixels": golden["detect_pixels"], "classes": golden["classes"]}
    for name, values in DetectReference(detector)(inputs).items():
        np.testing.assert_array_equal(golden[f"detect_{name}"], values)


@pytest.mark.slow
def test_no_batch_norm_is_left_and_three_hundred_proposals_at_most(tmp_path, detector):
    larger = copy.copy(detector)
    larger.image_size = 160  # 525 locations
    card, parity, golden = write_detect(tmp_path, larger)
    model = onnx.load(tmp_path / DETECT)
    assert card.image_size == 160 and golden["detect_boxes"].shape == (300, 4)
    assert parity.cosine >= 0.9999 and parity.max_abs <= 1e-4
    assert {"BatchNormalization"} & {node.op_type for node in model.graph.node} == set()
    assert [x.version for x in model.opset_import if not x.domain] == [18]
    assert DetectGraph(larger).count == 300


@pytest.mark.slow
def test_scores_far_below_one_keep_their_digits(tmp_path, detector):
    """The sigmoid of ONNX Runtime would not: it ends at logits of -18."""
    steep = copy.copy(detector)
    steep.params = ScoreParams(scale=30.0, bias=-45.0, beta=0.9)
    write_detect(tmp_path, steep)
    reference = DetectReference(steep)
    inputs = reference.inputs(40, seed=4)
    found = Session((tmp_path / DETECT).read_bytes())(inputs)
    expected = reference(inputs)
    order = matching_rows(*(x[n] for x in (found, expected) for n in ("boxes", "objectness")))
    assert 1e-30 < expected["scores"].min() < expected["scores"].max() < 1e-8
    np.testing.assert_allclose(found["scores"][order], expected["scores"], rtol=1e-3)


@pytest.mark.slow
def test_a_head_that_was_changed_fails_the_comparison(tmp_path, detector, mistake, monkeypatch):
    reference = DetectReference.__call__

    def other(self, inputs):
        outputs = reference(self, inputs)
        return {**outputs, "boxes": outputs["boxes"] + np.float32(0.1)}

    monkeypatch.setattr(DetectReference, "__call__", other)
    with mistake(DETECT, "difference"):
        write_detect(tmp_path, detector)


def test_a_size_that_is_no_multiple_of_the_stride_is_refused(tmp_path, detector, mistake):
    odd = copy.copy(detector)
    odd.image_size = 100
    with mistake(DETECT, "100", "32"):
        write_detect(tmp_path, odd)
