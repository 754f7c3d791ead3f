"""The student as it is deployed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdeov.backbone import BACKBONES
from kdeov.deploy import ImageTower, fold_batch_norm


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_deployed_tower_embeds_as_the_student_does(student_of, backbone):
    student = student_of(backbone)
    tower = ImageTower(student)
    for size in ((64, 64), (33, 70)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = F.normalize(student(images), dim=-1)
        torch.testing.assert_close(tower(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_deployed_tower_holds_no_batch_norm_and_no_fusion(student_of, backbone):
    tower = ImageTower(student_of(backbone))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert {name for name, _ in tower.named_children()} == {"backbone", "projection"}
    assert not any(p.requires_grad for p in tower.parameters())


def test_the_student_stays_as_it_is(student_of):
    student = copy.deepcopy(student_of()).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    ImageTower(student)(torch.randn(1, 3, 64, 64))
    after = student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in student.modules())
    assert not any(m.inplace for m in student.modules() if isinstance(m, nn.SiLU))


def test_only_a_batch_norm_that_follows_a_convolution_is_folded():
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.running_var, 1, 3)
    layers = nn.Sequential(norm, nn.Conv2d(3, 4, 1), nn.SiLU(), nn.BatchNorm2d(4)).eval()
    images = torch.randn(2, 3, 5, 5)
    expected = layers(images)
    fold_batch_norm(layers)
    assert torch.equal(layers(images), expected)
