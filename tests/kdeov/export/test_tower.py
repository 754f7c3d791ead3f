"""The student as it is deployed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdeov.export.tower import ImageTower, fold_batch_norm
from kdeov.models.student import VisualStudent
from tests.helpers.backbones import SMALL


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("backbone", [*SMALL, "yolov8s", "timm:test_byobnet", "timm:xception41p"])
def test_the_deployed_tower_embeds_as_the_student_does(student_of, backbone):
    student = student_of(backbone)
    tower = ImageTower(student)
    for size in ((64, 64), (33, 70)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = F.normalize(student(images), dim=-1)
        torch.testing.assert_close(tower(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", ["yolov8n", "yolov5n", "yolo11n", "timm:efficientvit_b0"])
def test_the_deployed_tower_holds_no_batch_norm_and_no_fusion(student_of, backbone):
    tower = ImageTower(student_of(backbone))
    assert not _norms(tower)
    assert {name for name, _ in tower.named_children()} == {"backbone", "projection"}
    assert not any(p.requires_grad for p in tower.parameters())


def test_pretrained_weights_with_folded_batch_norm_are_deployed_too(yolo_file):
    student = VisualStudent("yolov8n", embed_dim=32, backbone_weights=yolo_file("yolov8n")).eval()
    tower, images = ImageTower(student), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = F.normalize(student(images), dim=-1)
    assert not _norms(tower)
    torch.testing.assert_close(tower(images), expected, rtol=0, atol=1e-5)


def test_parallel_branches_are_merged(student_of):
    student = student_of("timm:repvit_m0_9")
    tower = ImageTower(student)
    ours, theirs = (sum(1 for m in net.modules() if isinstance(m, nn.Conv2d))
                    for net in (tower, student))  # fmt: skip
    assert ours < theirs
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


def _folded(layers: nn.Module) -> int:
    """Folds, and checks that nothing else changes; how many batch norms are gone."""
    for norm in _norms(layers):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 1, 3)
    layers.eval().double()
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    before, expected = len(_norms(layers)), layers(images)
    fold_batch_norm(layers, images)
    torch.testing.assert_close(layers(images), expected)
    return before - len(_norms(layers))


def test_a_batch_norm_that_takes_what_a_convolution_gives_is_folded():
    assert _folded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU())) == 1


def test_a_batch_norm_that_follows_something_else_stays():
    norm = nn.BatchNorm2d(3)
    layers = nn.Sequential(norm, nn.Conv2d(3, 4, 1), nn.SiLU(), nn.BatchNorm2d(4))
    assert _folded(layers) == 0


def test_the_activation_of_a_batch_norm_stays():
    from timm.layers import BatchNormAct2d

    assert _folded(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))) == 1


class Branches(nn.Module):
    """The norm stands after the convolution in the list, and takes a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x) + x)


class Twice(Branches):
    """The convolution serves two places, of which one has a norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + self.conv(x.flip(-1))


class Standardised(nn.Conv2d):
    """A convolution that takes scales out of its weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, F.layer_norm(self.weight, self.weight.shape[1:]), self.bias)


@pytest.mark.parametrize(
    "layers",
    [Branches(), Twice(), nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4))],
    ids=lambda layers: type(layers).__name__,
)
def test_a_batch_norm_that_only_seems_to_follow_a_convolution_stays(layers):
    assert _folded(layers) == 0
