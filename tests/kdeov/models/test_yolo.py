"""Backbones that come from YOLO detectors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.models.backbone import LightweightVisualBackbone
from kdeov.models.yolo import LAYERS, SIZES, YOLOS

CHANNELS = {
    "yolov5n": (64, 128, 256),
    "yolov5s": (128, 256, 512),
    "yolov8n": (64, 128, 256),
    "yolov8m": (192, 384, 576),
    "yolov8x": (320, 640, 640),
    "yolo11n": (128, 128, 256),
    "yolo11m": (512, 512, 512),
}
ONE_OF_EACH = ("yolov5n", "yolov8s", "yolo11n")


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def _detector(name: str) -> nn.Module:
    """A whole detector, with weights whose like no fresh one has."""
    from ultralytics.nn.tasks import DetectionModel

    detector = DetectionModel(f"{name}.yaml", verbose=False)
    for norm in _norms(detector):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return detector.eval()


def _assert_sees_what_the_detector_sees(name, path, detector) -> None:
    """The detector takes pixels in [0, 1], the backbone those of CLIP's transform."""
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    ours = LightweightVisualBackbone(name, path).eval()
    count = LAYERS[name[:-1]]
    with torch.no_grad():
        x, theirs = pixels / 255, []
        for index, layer in enumerate(detector.model[:count]):
            x = layer(x)
            if index in (4, 6, count - 1):
                theirs.append(x)
        for one, other in zip(ours(ImageTransform().normalize(pixels)), theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_three_families_come_in_five_sizes():
    assert len(YOLOS) == len(set(YOLOS)) == 15
    sizes = {}
    with torch.device("meta"):  # shapes alone: the largest have fifty million weights
        for name in YOLOS:
            backbone = LightweightVisualBackbone(name)
            assert backbone.strides == (8, 16, 32)
            assert backbone.channels == CHANNELS.get(name, backbone.channels)
            sizes[name] = sum(p.numel() for p in backbone.parameters())
    for family in LAYERS:
        of_family = [sizes[family + size] for size in SIZES]
        assert of_family == sorted(set(of_family))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_detectors_weights_see_what_the_detector_sees(tmp_path, name):
    detector = _detector(name)
    torch.save(detector.state_dict(), tmp_path / "detector.pt")
    _assert_sees_what_the_detector_sees(name, tmp_path / "detector.pt", detector)


@pytest.mark.parametrize("name", ["yolov8n", "yolov5s"])
def test_pretrained_weights_see_what_the_detector_sees(name, yolo_file):
    state = torch.load(yolo_file(name), weights_only=True)
    detector = _detector(name)
    prefix = next(iter(state)).split("0.")[0]
    backbone_state = {
        "model." + key.removeprefix(prefix): value
        for key, value in state.items()
        if int(key.removeprefix(prefix).split(".")[0]) < 10
    }
    missing = detector.load_state_dict(backbone_state, strict=False)
    assert not missing.unexpected_keys
    assert not [key for key in missing.missing_keys if int(key.split(".")[1]) < 10]
    _assert_sees_what_the_detector_sees(name, yolo_file(name), detector)


def test_a_saved_backbone_knows_what_pixels_its_weights_expect(tmp_path):
    detector = _detector("yolov8n")
    torch.save(detector.state_dict(), tmp_path / "detector.pt")
    pretrained = LightweightVisualBackbone("yolov8n", tmp_path / "detector.pt").eval()
    loaded = LightweightVisualBackbone("yolov8n").eval()
    loaded.load_state_dict(pretrained.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert all(map(torch.equal, loaded(images), pretrained(images)))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("form", ["safetensors", "state dict", "ultralytics"])
def test_every_kind_of_weight_file_gives_the_same_backbone(tmp_path, name, form):
    detector = _detector(name)
    if form == "safetensors":
        path = tmp_path / "detector.safetensors"
        save_file(detector.state_dict(), path)
    else:
        path = tmp_path / "detector.pt"
        torch.save(
            detector.state_dict() if form == "state dict" else {"model": detector, "epoch": 1}, path
        )
    ours = LightweightVisualBackbone(name, path).trunk.network.state_dict()
    theirs = detector.model[: LAYERS[name[:-1]]].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("name", "other", "layer"),
    [
        ("yolov8n", "yolov8s", "layer 0.conv.weight should be (16, 3, 3, 3)"),
        ("yolov8n", "yolov5n", "layer 0.conv.weight should be (16, 3, 3, 3)"),
        ("yolov5n", "yolov8n", "layer 0.conv.weight should be (16, 3, 6, 6)"),
        ("yolo11s", "yolov8s", "layer 2.cv2.conv.weight should be"),
    ],
)
def test_weights_of_another_yolo_name_the_layer_and_whose_they_are(
    tmp_path, mistake, name, other, layer
):
    path = tmp_path / "weights.safetensors"
    save_file(LightweightVisualBackbone(other).trunk.network.state_dict(), path)
    with mistake(path, name, layer, other):
        LightweightVisualBackbone(name, path)


def test_a_missing_layer_is_named(tmp_path, mistake):
    state = LightweightVisualBackbone("yolov8n").trunk.network.state_dict()
    del state["9.cv2.conv.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with mistake("short.safetensors", "layer 9.cv2.conv.weight", "absent"):
        LightweightVisualBackbone("yolov8n", tmp_path / "short.safetensors")
