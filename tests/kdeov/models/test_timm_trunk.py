"""Backbones that come from timm."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from kdeov.data.transform import ImageTransform
from kdeov.models.backbone import LightweightVisualBackbone

SEEN = (
    "mobilenetv3_small_050",
    "resnet10t",
    "convnext_atto",
    "efficientvit_b0",
    "edgenext_xx_small",
    "test_mambaout",
    "test_vit",
    "test_byobnet.r160_in1k",
)


def _whole(name: str) -> nn.Module:
    """A whole network with its classifier, and with weights whose like no fresh one has."""
    network = timm.create_model(name)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture
def weight_file(tmp_path):
    def make(name: str):
        save_file(_whole(name).state_dict(), tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return make


@pytest.mark.parametrize("name", SEEN)
def test_pretrained_weights_see_what_timm_sees(name, weight_file):
    """timm's own features of timm's pixels, with the weights loaded in timm's own way."""
    path = weight_file(name)
    theirs = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ).eval()
    ours = LightweightVisualBackbone(f"timm:{name}", path).eval()
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = theirs((pixels / 255 - mean) / std)[-len(ours.strides) :]
        found = ours(ImageTransform().normalize(pixels))
    if getattr(theirs, "output_fmt", "NCHW") == "NHWC":
        expected = [x.permute(0, 3, 1, 2) for x in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_a_tag_says_what_pixels_its_weights_expect(weight_file):
    path = weight_file("vit_tiny_patch16_224")
    plain, tagged = (
        LightweightVisualBackbone(f"timm:vit_tiny_patch16_224{tag}", path)
        for tag in ("", ".augreg_in21k")
    )
    assert plain.trunk.mean == tagged.trunk.mean == (0.5, 0.5, 0.5)
    assert tagged.backbone_type == "timm:vit_tiny_patch16_224.augreg_in21k"


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_networks_of_a_fixed_size_take_any(name):
    backbone = LightweightVisualBackbone(f"timm:{name}").eval()
    fine = backbone.strides[0]
    with torch.no_grad():
        maps = [backbone(torch.randn(1, 3, *size)) for size in ((224, 224), (64, 96), (33, 50))]
    assert [tuple(x[0].shape[-2:]) for x in maps] == [
        tuple(-(-side // backbone.strides[-1]) * backbone.strides[-1] // fine for side in size)
        for size in ((224, 224), (64, 96), (33, 50))
    ]


@pytest.mark.parametrize(
    "name", ["test_maxvit", "efficientformerv2_s0", "hardcorenas_a", "mobilevitv2_050"]
)
def test_a_network_without_maps_of_any_image_is_refused(mistake, name):
    with mistake(f"timm:{name}", "any size"):
        LightweightVisualBackbone(f"timm:{name}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "did you mean timm:resnet"),
        ("", "timm.list_models()"),
        ("hf-hub:timm/resnet18", "unknown to timm"),  # timm would fetch that one
        ("local-dir:/tmp", "unknown to timm"),
        ("resnet18.no_such_tag", "did you mean timm:resnet18?"),
    ],
)
def test_an_unknown_name_is_reported_in_one_line(mistake, name, hint):
    with mistake(f"timm:{name}", hint):
        LightweightVisualBackbone(f"timm:{name}")


def test_missing_weights_are_reported_with_their_source(tmp_path, mistake):
    with mistake(tmp_path / "w.safetensors", "timm/resnet18.a1_in1k", "model.safetensors"):
        LightweightVisualBackbone("timm:resnet18", tmp_path / "w.safetensors")
    with mistake(tmp_path / "w.safetensors", "timm:ghostnetv3_050"):
        LightweightVisualBackbone("timm:ghostnetv3_050", tmp_path / "w.safetensors")


@pytest.mark.parametrize("form", ["whole", "backbone", "counters"])
def test_only_the_tensors_of_the_backbone_are_needed(tmp_path, form):
    whole = _whole("mobilenetv3_small_050").state_dict()
    own = LightweightVisualBackbone("timm:mobilenetv3_small_050").trunk.network.state_dict()
    assert own.keys() < whole.keys()
    given = {
        "whole": whole,
        "backbone": {name: whole[name] for name in own},
        "counters": {n: v for n, v in whole.items() if "num_batches_tracked" not in n},
    }[form]
    torch.save(given, tmp_path / "weights.pt")
    backbone = LightweightVisualBackbone("timm:mobilenetv3_small_050", tmp_path / "weights.pt")
    loaded = backbone.trunk.network.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_a_missing_tensor_is_named(tmp_path, mistake, name):
    state = _whole(name).state_dict()
    lost = [key for key in state if "weight" in key and "head" not in key and "fc" not in key][-2]
    del state[lost]
    save_file(state, tmp_path / "short.safetensors")
    with mistake("short.safetensors", f"timm:{name}", f"layer {lost}", "absent"):
        LightweightVisualBackbone(f"timm:{name}", tmp_path / "short.safetensors")


def test_weights_of_another_network_name_the_first_tensor(mistake, weight_file):
    with mistake("timm:resnet10t", "layer conv1.0.weight", "absent"):
        LightweightVisualBackbone("timm:resnet10t", weight_file("convnext_atto"))
    with mistake("timm:convnext_atto", "(40, 3, 4, 4)", "(24, 3, 4, 4)"):
        LightweightVisualBackbone("timm:convnext_atto", weight_file("test_convnext"))


WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        print(event, args)
sys.addaudithook(watch)
import torch
from kdeov.models.backbone import LightweightVisualBackbone
LightweightVisualBackbone(sys.argv[1]).eval()(torch.zeros(1, 3, 32, 32))
other = "ultralytics" if sys.argv[1].startswith("timm:") else "timm"
print(f"{other} was imported" if other in sys.modules else "")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "timm:mobilenetv3_small_050"])
def test_a_backbone_neither_calls_out_nor_writes_nor_needs_the_other_library(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    kept = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH")
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, name],
        env={name: os.environ[name] for name in kept if name in os.environ}
        | {"HOME": str(home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr
    assert [path.name for path in home.rglob("*")] == []


def test_a_image_that_is_passed_twice_in_training_gives_the_same():
    """A step may pass a micro-batch twice; timm builds swin to drop paths at random."""
    backbone = LightweightVisualBackbone("timm:swin_tiny_patch4_window7_224").train()
    images = torch.randn(2, 3, 64, 64)
    for first, second in zip(backbone(images), backbone(images), strict=True):
        assert torch.equal(first, second)
