"""The student's backbone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from kdeov.backbone import BACKBONES, LightweightVisualBackbone, pad_to_stride

CHANNELS = {"yolov8n": (64, 128, 256), "yolov5s": (128, 256, 512)}
STRIDES = (8, 16, 32)
SIDES = st.integers(1, 70)


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def _assert_same_features(ours, theirs, images) -> None:
    for one, other in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_strides_8_16_and_32(name):
    backbone = LightweightVisualBackbone(name).eval()
    assert backbone.channels == CHANNELS[name]
    shapes = [tuple(feature.shape) for feature in backbone(torch.zeros(2, 3, 64, 96))]
    assert shapes == [
        (2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS[name], STRIDES, strict=True)
    ]


@given(SIDES, SIDES)
def test_pictures_are_padded_to_the_right_and_below(height, width):
    image = torch.rand(1, 3, height, width)
    padded = pad_to_stride(image)
    assert [side % 32 for side in padded.shape[-2:]] == [0, 0]
    assert all(0 <= p - s < 32 for p, s in zip(padded.shape[-2:], (height, width), strict=True))
    rows = torch.arange(padded.shape[-2]).clamp(max=height - 1)
    columns = torch.arange(padded.shape[-1]).clamp(max=width - 1)
    assert torch.equal(padded, image[:, :, rows][..., columns])


@pytest.mark.parametrize("name", BACKBONES)
def test_pretrained_features_are_those_of_the_whole_detector(name, yolo_file):
    from ultralytics.nn.tasks import DetectionModel

    state = torch.load(yolo_file(name), weights_only=True)
    detector = DetectionModel(f"{name}.yaml", verbose=False)
    prefix = next(iter(state)).split("0.")[0]
    backbone_state = {
        "model." + key.removeprefix(prefix): value
        for key, value in state.items()
        if int(key.removeprefix(prefix).split(".")[0]) < 10
    }
    missing = detector.load_state_dict(backbone_state, strict=False)
    assert not missing.unexpected_keys
    assert not [key for key in missing.missing_keys if int(key.split(".")[1]) < 10]
    detector.eval()

    def tapped(images):
        features = []
        for layer in detector.model[:10]:
            images = layer(images)
            features.append(images)
        return [features[index] for index in (4, 6, 9)]

    ours = LightweightVisualBackbone(name, yolo_file(name)).eval()
    with torch.no_grad():
        _assert_same_features(ours, tapped, torch.rand(1, 3, 64, 64))


def _assert_an_identity_in_training(backbone: LightweightVisualBackbone) -> None:
    images = torch.rand(2, 3, 64, 64)
    assert backbone.folded
    nn.ModuleList([backbone]).train()
    assert backbone.training and not any(norm.training for norm in _norms(backbone))
    trained = backbone(images)
    backbone.eval()
    assert all(map(torch.equal, trained, backbone(images)))


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_batch_norm_stays_an_identity_in_training(tmp_path, name):
    layers = LightweightVisualBackbone(name).layers
    for norm in _norms(layers):
        nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)
        nn.init.normal_(norm.bias)
    save_file(layers.state_dict(), tmp_path / "folded.safetensors")
    backbone = LightweightVisualBackbone(name, tmp_path / "folded.safetensors")
    _assert_an_identity_in_training(backbone)
    loaded = LightweightVisualBackbone(name)
    loaded.load_state_dict(backbone.state_dict())  # as a resumed run does
    _assert_an_identity_in_training(loaded)


def test_pretrained_yolov8n_is_folded(yolo_file):
    backbone = LightweightVisualBackbone("yolov8n", yolo_file("yolov8n"))
    _assert_an_identity_in_training(backbone)


def test_pretrained_yolov5s_is_not_folded(yolo_file):
    backbone = LightweightVisualBackbone("yolov5s", yolo_file("yolov5s")).train()
    assert not backbone.folded
    assert all(norm.training for norm in _norms(backbone))
    assert {norm.eps for norm in _norms(backbone)} == {1e-3}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_of_random_weights_is_not_folded(name):
    backbone = LightweightVisualBackbone(name)
    assert not backbone.folded and backbone.training
    assert all(norm.training for norm in _norms(backbone))


@pytest.mark.parametrize("form", ["safetensors", "state dict", "ultralytics"])
def test_every_kind_of_weight_file_gives_the_same_backbone(tmp_path, form):
    from ultralytics.nn.tasks import DetectionModel

    detector = DetectionModel("yolov8n.yaml", verbose=False).eval()
    for norm in _norms(detector):
        nn.init.normal_(norm.running_mean)
    if form == "safetensors":
        path = tmp_path / "detector.safetensors"
        save_file(detector.state_dict(), path)
    else:
        path = tmp_path / "detector.pt"
        torch.save(
            detector.state_dict() if form == "state dict" else {"model": detector, "epoch": 1}, path
        )
    backbone = LightweightVisualBackbone("yolov8n", path)
    ours, theirs = backbone.layers.state_dict(), detector.model[:10].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_unknown_name_is_told_with_the_known_ones(mistake):
    with mistake("'yolov9t'", "yolov8n", "yolov5s"):
        LightweightVisualBackbone("yolov9t")


@pytest.mark.parametrize(("name", "other"), [BACKBONES, tuple(BACKBONES)[::-1]])
def test_weights_of_another_architecture_name_the_layer(tmp_path, mistake, name, other):
    path = tmp_path / "weights.safetensors"
    save_file(LightweightVisualBackbone(other).layers.state_dict(), path)
    with mistake(path, f"does not fit {name}", "layer 0.conv.weight", "(16, 3, 3, 3)"):
        LightweightVisualBackbone(name, path)


def test_a_missing_layer_is_named(tmp_path, mistake):
    state = LightweightVisualBackbone("yolov8n").layers.state_dict()
    del state["9.cv2.conv.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with mistake("short.safetensors", "layer 9.cv2.conv.weight", "absent"):
        LightweightVisualBackbone("yolov8n", tmp_path / "short.safetensors")


WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        print(event, args)
sys.addaudithook(watch)
import torch
from kdeov.backbone import LightweightVisualBackbone
LightweightVisualBackbone("yolov8n").eval()(torch.zeros(1, 3, 32, 32))
"""


def test_backbone_neither_calls_out_nor_writes_into_the_home_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kept = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH")
    run = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env={name: os.environ[name] for name in kept if name in os.environ}
        | {"HOME": str(home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert [path.name for path in home.rglob("*")] == []
