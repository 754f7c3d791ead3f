"""What holds for the student's backbone, whichever it is."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from kdeov.models.backbone import LightweightVisualBackbone, pad_to_stride
from kdeov.models.student import VisualStudent
from kdeov.training.grad_cache import GradCacheStep
from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import ExponentialAverage, build_optimizer
from tests.helpers.backbones import FEW, SMALL

SIDES = st.integers(1, 70)
FOLDED = ("yolov8n", "yolo11n")


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def _copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _differ(one, other) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def _steps(student: VisualStudent, count: int = 2) -> None:
    """Training as the pipeline does it, in micro-batches: seven, whose mean is not always exact."""
    step = GradCacheStep(student, FeatureAlignmentLoss({"feature": 1.0}), 0.1, micro_batch_size=2)
    optimizer = build_optimizer(student, 1e-2, 0.05)
    student.train()
    for _ in range(count):
        optimizer.zero_grad()
        step.backward(torch.randn(14, 3, 64, 64), torch.randn(14, 8), torch.randn(14, 8))
        optimizer.step()


@pytest.fixture
def folded_file(tmp_path):
    """Weights with batch norm folded into the convolutions."""

    def make(name: str):
        network = LightweightVisualBackbone(name).trunk.network
        for norm in _norms(network):
            nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)
            nn.init.normal_(norm.bias)
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return make


@pytest.mark.parametrize("name", SMALL)
def test_each_level_has_the_stride_and_the_channels_that_are_stated(name):
    backbone = LightweightVisualBackbone(name).eval()
    strides, side = backbone.strides, backbone.strides[-1]
    assert all(2 * fine == coarse for fine, coarse in pairwise(strides))
    for height, width in ((2 * side, 3 * side), (side + 1, 1)):
        tall, wide = (-(-length // side) * side for length in (height, width))
        shapes = [tuple(x.shape) for x in backbone(torch.rand(2, 3, height, width))]
        assert shapes == [
            (2, c, tall // s, wide // s) for c, s in zip(backbone.channels, strides, strict=True)
        ]


@given(SIDES, SIDES, st.sampled_from([14, 32, 64]))
def test_images_are_padded_to_the_right_and_below(height, width, stride):
    image = torch.rand(1, 3, height, width)
    padded = pad_to_stride(image, stride)
    assert [side % stride for side in padded.shape[-2:]] == [0, 0]
    assert all(0 <= p - s < stride for p, s in zip(padded.shape[-2:], (height, width), strict=True))
    rows = torch.arange(padded.shape[-2]).clamp(max=height - 1)
    columns = torch.arange(padded.shape[-1]).clamp(max=width - 1)
    assert torch.equal(padded, image[:, :, rows][..., columns])


@pytest.mark.parametrize("name", [*SMALL, "timm:hrnet_w18_small"])
def test_every_trainable_parameter_gets_a_gradient(name):
    backbone = LightweightVisualBackbone(name).train()
    sum(x.square().sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert len(trained) > 10
    assert [p for p in trained if p.grad is None] == []


@pytest.mark.parametrize("name", FEW)
def test_a_frozen_backbone_stays_as_it_is_while_the_rest_learns(name):
    student = VisualStudent(name, "film", 8)
    _steps(student, 1)  # statistics that rounding could move
    student.backbone.freeze()
    before = _copy(student)
    _steps(student)
    changed = _differ(before, _copy(student))
    assert changed and not [key for key in changed if key.startswith("backbone.")]
    assert student.training and not any(m.training for m in student.backbone.modules())


@pytest.mark.parametrize("name", FOLDED)
def test_folded_batch_norm_is_not_trained(name, folded_file):
    student = VisualStudent(name, "film", 8, folded_file(name))
    student.requires_grad_(True)
    average = ExponentialAverage(student, 0.9)
    before = _copy(student)
    _steps(student)
    average.update(student)
    changed = _differ(before, _copy(student))
    norms = {key for key in before if key.startswith("backbone.") and ".bn." in key}
    convolutions = {key for key in before if key.startswith("backbone.") and "conv.weight" in key}
    assert norms and not norms & changed and convolutions <= changed
    assert _differ(before, _copy(average.module)).isdisjoint(norms)


def _assert_an_identity_in_training(backbone: LightweightVisualBackbone) -> None:
    images = torch.rand(2, 3, 64, 64)
    assert backbone.folded
    nn.ModuleList([backbone]).train()
    assert backbone.training and not any(norm.training for norm in _norms(backbone))
    assert not any(True for norm in _norms(backbone) for _ in norm.parameters())
    trained = backbone(images)
    backbone.eval()
    assert all(map(torch.equal, trained, backbone(images)))


@pytest.mark.parametrize("name", FOLDED)
def test_folded_batch_norm_stays_an_identity_in_training(name, folded_file):
    backbone = LightweightVisualBackbone(name, folded_file(name))
    _assert_an_identity_in_training(backbone)
    loaded = nn.ModuleDict({"backbone": LightweightVisualBackbone(name)})
    loaded.load_state_dict(  # as a resumed run does
        {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    )
    _assert_an_identity_in_training(loaded["backbone"])
    _assert_an_identity_in_training(copy.deepcopy(loaded["backbone"]))


def test_pretrained_yolov8n_is_folded(yolo_file):
    backbone = LightweightVisualBackbone("yolov8n", yolo_file("yolov8n"))
    _assert_an_identity_in_training(backbone)


def test_pretrained_yolov5s_is_not_folded(yolo_file):
    backbone = LightweightVisualBackbone("yolov5s", yolo_file("yolov5s")).train()
    assert not backbone.folded
    assert all(norm.training for norm in _norms(backbone))
    assert {norm.eps for norm in _norms(backbone)} == {1e-3}


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_are_not_folded_and_see_pixels_as_they_are(tmp_path, name):
    backbone = LightweightVisualBackbone(name)
    assert not backbone.folded and backbone.training
    assert all(norm.training for norm in _norms(backbone))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(map(torch.equal, backbone.eval()(images), backbone.trunk(images)))
    save_file(backbone.trunk.network.state_dict(), tmp_path / "fresh.safetensors")
    assert not LightweightVisualBackbone(name, tmp_path / "fresh.safetensors").folded


@pytest.mark.parametrize("name", SMALL)
def test_pixels_keep_the_layout_that_convolutions_like(name):
    seen = []
    backbone = LightweightVisualBackbone(name)
    backbone.trunk.forward = seen.append
    backbone(torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["yolov9t", "resnet18", "", "timm"])
def test_an_unknown_name_is_reported_with_the_known_ones(mistake, name):
    with mistake(repr(name), "yolov8n", "yolo11x", "timm:"):
        LightweightVisualBackbone(name)
