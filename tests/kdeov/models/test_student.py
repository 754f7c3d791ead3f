"""The part of the model that is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.helpers.backbones import SMALL


@pytest.fixture(params=SMALL)
def student(request, student_of):
    return copy.deepcopy(student_of(request.param)).double()


@pytest.mark.parametrize(("height", "width"), [(96, 64), (32, 32), (160, 128)])
def test_one_pass_gives_the_embedding_and_its_dense_map(student, apart, height, width):
    pixels = torch.randn(2, 3, height, width).double()
    with torch.no_grad():
        output, embedding = student.with_dense(pixels), student(pixels)
    assert torch.equal(output.embedding, embedding)
    strides = student.backbone.strides
    height, width = (side + -side % strides[-1] for side in (height, width))  # as it is padded
    # the map has 4 locations a side where a level has as many
    stride = max((s for s in strides if width // s >= 4), default=strides[0])
    assert output.dense.shape == (2, 32, height // stride, width // stride)
    assert apart(output.dense.mean(dim=(2, 3)), embedding) < 1e-6


def test_a_training_step_feeds_batch_norm_once(student):
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [int(norm.num_batches_tracked) for norm in norms]
    student.train().with_dense(torch.randn(2, 3, 64, 64).double())
    assert [int(norm.num_batches_tracked) for norm in norms] == [count + 1 for count in before]


def test_every_parameter_but_fusion_learns_from_the_embedding(student):
    student.train()(torch.randn(2, 3, 64, 64).double()).square().sum().backward()
    unmoved = [name for name, p in student.named_parameters() if p.grad is None]
    assert unmoved == [f"fusion.{name}" for name, _ in student.fusion.named_parameters()]
