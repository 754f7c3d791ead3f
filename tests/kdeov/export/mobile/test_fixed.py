"""The graph that converters take: one image, from a student or from its export."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeov.data.transform import ImageTransform
from kdeov.errors import DataError
from kdeov.export.mobile.fixed import FixedImage
from kdeov.export.onnx import Session
from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import read_card, write_card


@pytest.fixture(params=["model", "export"])
def either(request, fixed, export) -> FixedImage:
    """The same student, from itself and from its export."""
    return fixed if request.param == "model" else FixedImage.from_export(export)


def test_an_export_and_its_student_have_one_graph(fixed, export):
    exported = FixedImage.from_export(export)
    assert exported.weights == fixed.weights
    assert exported.shape == fixed.shape == (1, 3, 64, 64)
    assert exported.preprocessing == fixed.preprocessing
    for image in fixed.pixels():
        np.testing.assert_allclose(exported.embed(image), fixed.embed(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_programs_take_one_image_of_bytes_or_floats(either, dtype):
    program = either.program(dtype)
    run = program.module()
    for image in either.pixels():
        with torch.no_grad():
            found = run(torch.from_numpy(image).to(dtype))
        np.testing.assert_allclose(found.numpy(), either.embed(image), rtol=0, atol=1e-5)
    assert tuple(program.graph.find_nodes(op="placeholder")[-1].meta["val"].shape) == either.shape


def test_programs_of_floats_hold_no_check_for_bytes(either):
    nodes = either.program(torch.float32).graph.nodes
    assert not [n for n in nodes if "uint8" in str((n.args, n.kwargs, n.meta.get("val")))]


def test_the_onnx_model_takes_the_same_pixels(either):
    session = Session(either.onnx())
    for image in either.pixels():
        found = session({"pixels": image})["embedding"]
        np.testing.assert_allclose(found, either.embed(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("source", ["model", "export"])
def test_a_size_that_is_no_multiple_of_the_stride_is_padded_in_the_graph(
    source, student, export, tmp_path
):
    model = KDEOVModel.from_parts(
        student.student, student.text_encoder, ImageTransform(50), "small"
    )
    fixed = exported = FixedImage.from_model(model)
    if source == "export":
        folder = Path(shutil.copytree(export, tmp_path / "export"))
        card = read_card(folder)
        transform = model.transform.to_dict()
        write_card(folder, dataclasses.replace(card, transform=transform), card.files)
        exported = FixedImage.from_export(folder)
    (image, *_) = exported.pixels()
    assert image.shape == exported.shape == (1, 3, 50, 50)
    assert exported.weights == fixed.weights
    with torch.no_grad():
        found = exported.program(torch.float32).module()(torch.from_numpy(image).float()).numpy()
    for output in (
        found,
        exported.embed(image),
        Session(exported.onnx())({"pixels": image})["embedding"],
    ):
        np.testing.assert_allclose(output, fixed.embed(image), rtol=0, atol=1e-4)


def test_the_student_stays_as_it_is(student):
    model = copy.deepcopy(student).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FixedImage.from_model(model).embed(np.zeros((1, 3, 64, 64), dtype=np.uint8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.student.training


def test_a_damaged_program_is_refused(export, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for file in export.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[:-9] if file.name == "image.pt2" else data)
    with pytest.raises(DataError, match=r"image\.pt2"):
        FixedImage.from_export(folder)
