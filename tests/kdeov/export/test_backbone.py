"""The exported backbone in the hands of its own library."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.export.backbone import METADATA, write_backbone
from kdeov.models.backbone import LightweightVisualBackbone


@pytest.fixture
def backbone_of(tmp_path):
    """Makes a backbone with statistics in its batch norms, started from a weight file or not."""

    def build(name: str, pretrained: bool = False) -> LightweightVisualBackbone:
        backbone = LightweightVisualBackbone(name)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.1)
        if pretrained:
            torch.save(backbone.trunk.network.state_dict(), tmp_path / "weights.pt")
            backbone = LightweightVisualBackbone(name, tmp_path / "weights.pt")
        return backbone.eval()

    return build


def ultralytics_maps(name, file, pixels, taps):
    """The maps of an ultralytics detector that was loaded from a file."""
    from ultralytics import YOLO

    layers = YOLO(f"{name}.yaml").load(str(file)).model.eval().model
    maps, x = [], pixels
    for number, layer in enumerate(layers[: taps[-1] + 1]):
        x = layer(x)
        if number in taps:
            maps.append(x)
    return maps


@pytest.mark.parametrize("name", ["yolov8n", "yolov5n", "yolo11n"])
def test_ultralytics_computes_the_maps_of_a_pretrained_student(tmp_path, backbone_of, name):
    backbone, transform = backbone_of(name, pretrained=True), ImageTransform(64)
    file = tmp_path / write_backbone(tmp_path, backbone, transform)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        found = ultralytics_maps(name, file, pixels / 255, backbone.trunk.taps)
        expected = backbone(transform.normalize(pixels))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_ultralytics_computes_the_maps_of_a_student_from_random_weights(tmp_path, backbone_of):
    backbone, transform = backbone_of("yolov8n"), ImageTransform(64)
    file = tmp_path / write_backbone(tmp_path, backbone, transform)
    pixels = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    with torch.no_grad():
        found = ultralytics_maps("yolov8n", file, pixels / 255, backbone.trunk.taps)
        expected = backbone(transform.normalize(pixels))
    # the padding differs: beyond its reach the maps are equal
    inner = (..., slice(18, 22), slice(18, 22))
    torch.testing.assert_close(found[0][inner], expected[0][inner], rtol=1e-5, atol=1e-5)


def test_a_student_starts_from_an_exported_backbone(tmp_path, backbone_of):
    backbone = backbone_of("yolov8n", pretrained=True)
    file = tmp_path / write_backbone(tmp_path, backbone, ImageTransform(64))
    again, images = LightweightVisualBackbone("yolov8n", file).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(backbone(images), again(images), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_timm_computes_the_maps_of_a_student(tmp_path, backbone_of, name, pretrained):
    import timm

    backbone, transform = backbone_of(f"timm:{name}", pretrained), ImageTransform(64)
    file = tmp_path / write_backbone(tmp_path, backbone, transform)
    network = timm.create_model(name, num_classes=10).eval()
    missing, unexpected = network.load_state_dict(load_file(file), strict=False)
    head = ("fc.", "classifier.", "conv_head.", "head.", "norm_head.")
    assert not unexpected and all(key.startswith(head) for key in missing)
    with safe_open(file, "pt") as opened:
        normalization = json.loads(opened.metadata()[METADATA])
    mean, std = (torch.tensor(normalization[key]).view(3, 1, 1) for key in ("mean", "std"))
    if pretrained:
        assert normalization["mean"] == pytest.approx(timm.get_pretrained_cfg(name).mean)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        found = network.forward_intermediates(
            (pixels / 255 - mean) / std, intermediates_only=True, indices=3
        )
        expected = backbone(transform.normalize(pixels))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
