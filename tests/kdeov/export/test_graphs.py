"""The image files, run by ONNX Runtime and by PyTorch, against the student."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdeov.export.graphs import DenseGraph, ImageGraph
from kdeov.export.images import (
    Reference,
    smooth_pixels,
    unit_rows,
    write_dense,
    write_image,
    write_program,
)
from kdeov.export.onnx import Session, pixel_axes, to_onnx
from kdeov.export.parity import compare, require_parity
from tests.helpers import ROOT
from tests.helpers.exported import small_model

SHAPES = [(1, 64, 64), (3, 96, 160), (8, 256, 128), (1, 480, 640)]


def check(model, session, shape):
    pixels, classes = smooth_pixels(*shape, seed=2), unit_rows(4, model.embed_dim, seed=2)
    normalized = model.transform.normalize(torch.from_numpy(pixels))
    found = session({"pixels": pixels, "classes": classes})
    with torch.no_grad():
        expected = {
            "embedding": model.encode_image(normalized),
            "dense": model.dense_features(normalized),
            "scores": model.encode_image(normalized) @ torch.from_numpy(classes).T,
            "heatmap": model.heatmap(normalized, torch.from_numpy(classes)),
        }
    parity = compare(found, {name: value.numpy() for name, value in expected.items()})
    assert parity.cosine >= 0.9999 and parity.max_abs <= 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_dense_file_equals_the_student_at_every_size(yolo, shape):
    check(yolo.model, Session(yolo.read("dense.onnx")), shape)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["yolov5n", "yolo11n", "timm:mobilenetv3_small_050",
                                      "timm:test_vit", "timm:convnext_atto"])  # fmt: skip
def test_students_of_every_family_are_exported(tmp_path, backbone):
    model = small_model("table", backbone)
    reference = Reference(model.student, model.transform)
    dense, _ = write_dense(tmp_path, DenseGraph(model.student, model.transform), reference)
    write_program(tmp_path, ImageGraph(model.student, model.transform), reference)
    session = Session(dense)
    side = 2 * model.student.backbone.strides[-1]
    check(model, session, (3, side, 2 * side))


def test_the_image_file_is_the_part_of_the_dense_file_that_the_embedding_needs(timm):
    dense, image = (onnx.load_from_string(timm.read(f"{n}.onnx")) for n in ("dense", "image"))
    assert [entry.name for entry in image.graph.input] == ["pixels"]
    assert [entry.name for entry in image.graph.output] == ["embedding"]
    convolutions = [sum(n.op_type == "Conv" for n in m.graph.node) for m in (dense, image)]
    assert convolutions[0] == convolutions[1] + 1  # the linear map of each location
    pixels = smooth_pixels(2, 96, 64, seed=3)
    outputs = [
        Session(timm.read("dense.onnx"))({"pixels": pixels, "classes": unit_rows(1, 32)}),
        Session(timm.read("image.onnx"))({"pixels": pixels}),
    ]
    np.testing.assert_allclose(outputs[0]["embedding"], outputs[1]["embedding"], atol=1e-6)


def test_classes_of_any_length_give_cosines(timm):
    session, pixels = Session(timm.read("dense.onnx")), smooth_pixels(1, 64, 64)
    classes = unit_rows(2, 32)
    plain, long = (session({"pixels": pixels, "classes": k * classes}) for k in (1, np.float32(7)))
    for name in ("scores", "heatmap"):
        np.testing.assert_allclose(plain[name], long[name], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_program_equals_the_student_at_every_size(yolo, shape):
    program = torch.export.load(io.BytesIO(yolo.read("image.pt2"))).module()
    pixels = torch.from_numpy(smooth_pixels(*shape, seed=2))
    with torch.no_grad():
        expected = yolo.model.encode_image(yolo.model.transform.normalize(pixels))
        torch.testing.assert_close(program(pixels), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_equal_students_give_equal_programs_in_every_process(tmp_path):
    script = """
import sys
from pathlib import Path
from kdeov.export.graphs import ImageGraph
from kdeov.export.images import Reference, write_program
from tests.helpers.exported import small_model
model = small_model("table", "timm:resnet10t")
reference = Reference(model.student, model.transform)
write_program(Path(sys.argv[1]), ImageGraph(model.student, model.transform), reference)
"""
    written = []
    for seed in ("1", "3"):  # of the hashes of strings, which order sets
        folder = tmp_path / seed
        folder.mkdir()
        command = [sys.executable, "-c", script, str(folder)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, check=True, timeout=600)
        written.append((folder / "image.pt2").read_bytes())
    assert written[0] == written[1]


def test_a_changed_weight_fails_the_comparison(timm, mistake):
    model = onnx.load_from_string(timm.read("image.onnx"))
    weight = next(t for t in model.graph.initializer if t.name == "projection.linear.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 1.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    reference = Reference(timm.model.student, timm.model.transform)
    inputs = [{"pixels": smooth_pixels(1, 64, 64)}]
    with mistake("image.onnx", "[1, 3, 64, 64]", "cosine"):
        session = Session(model.SerializeToString())
        require_parity("image.onnx", session, reference.embedding, inputs)


def test_an_export_of_another_student_fails_the_comparison(tmp_path, timm, mistake):
    other = small_model("table", "timm:resnet10t")
    nn.init.normal_(other.student.projection.linear.bias)
    with mistake("image.onnx", "cosine"):
        write_image(tmp_path, timm.read("dense.onnx"), Reference(other.student, other.transform))


def test_values_that_are_no_numbers_fail_the_comparison(mistake):
    expected = {"embedding": np.ones((1, 4), np.float32)}
    with mistake("image.onnx", "inf"):
        require_parity("image.onnx", lambda _: {"embedding": expected["embedding"] * np.nan},
                       lambda _: expected, [{"pixels": np.zeros(1)}])  # fmt: skip


def test_a_network_that_depends_on_the_values_of_pixels_is_refused(mistake):
    class Branching(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float() if pixels.sum() > 0 else -pixels.float()

    pixels = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    with mistake("image.onnx", "cannot be exported"):
        to_onnx(Branching(), {"pixels": pixels}, ["embedding"], [pixel_axes(32)], "image.onnx")
