"""Small real objects that these tests share: tiny CLIPs, students with active batch norm, images,
and the expectation of an error that a user can fix.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from kdeov import KdeovError, KDEOVModel
from kdeov.models.student import VisualStudent
from kdeov.weights.clip import import_clip
from kdeov.weights.towers import import_open_clip

settings.register_profile("kdeov", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("kdeov")

VISION = {
    "resnet": {"vision_layers": (1, 1, 1, 1), "vision_width": 8, "vision_patch_size": None},
    "vit": {"vision_layers": 2, "vision_width": 64, "vision_patch_size": 16},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def clip():
    return import_clip()


@pytest.fixture(scope="session")
def tiny_clips(clip) -> dict[str, nn.Module]:
    """CLIPs of both families in half precision, as they are published."""
    torch.manual_seed(0)
    models = {}
    for name, vision in VISION.items():
        model = clip.model.CLIP(
            embed_dim=32,
            image_resolution=64,
            **vision,
            context_length=28,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=1,
        )
        clip.model.convert_weights(model)
        models[name] = model.eval()
    return models


@pytest.fixture(scope="session")
def clip_files(tiny_clips, tmp_path_factory) -> dict[str, Path]:
    """The weights of `tiny_clips` as safetensors files."""
    folder = tmp_path_factory.mktemp("clips")
    for name, model in tiny_clips.items():
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in tiny_clips}


@pytest.fixture(scope="session")
def clip_file(clip_files) -> Path:
    return clip_files["vit"]


@pytest.fixture(scope="session")
def openai_archive() -> Callable[[nn.Module], torch.jit.ScriptModule]:
    """Makes archives as OpenAI publishes them: the description lies among the weights."""

    def trace(model: nn.Module) -> torch.jit.ScriptModule:
        model = copy.deepcopy(model)
        entries = {"input_resolution": 64, "context_length": 28, "vocab_size": 49408}
        for name, value in entries.items():
            vars(model).pop(name, None)
            model.register_buffer(name, torch.tensor(value))
        example = torch.zeros(1, 3, 64, 64), torch.zeros(1, 28, dtype=torch.long)
        return torch.jit.trace(model, example, check_trace=False)

    return trace


@pytest.fixture(scope="session")
def student_of() -> Callable[..., VisualStudent]:
    """Makes a student for reading; copy it to change it."""

    @functools.cache
    def build(backbone: str = "yolov8n", fusion: str = "film") -> VisualStudent:
        return _with_statistics(VisualStudent(backbone, fusion, embed_dim=32))

    return build


@pytest.fixture(scope="session")
def model_of(clip_file) -> Callable[..., KDEOVModel]:
    """Makes a model for reading; copy it to change it."""

    @functools.cache
    def build(backbone: str = "yolov8n", fusion: str = "film") -> KDEOVModel:
        model = KDEOVModel(clip_file, backbone, fusion, "cpu", image_size=64)
        _with_statistics(model.student)
        return model.eval()

    return build


def _with_statistics(student: VisualStudent) -> VisualStudent:
    """Gives batch norm random scales and the statistics of random images. The activations of a
    fresh student are so small that it is nearly linear, which would hide mistakes.
    """
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        student.train()(torch.randn(8, 3, 64, 64))
    return student.eval()


@pytest.fixture(scope="session")
def image() -> Callable[..., Image.Image]:
    """Makes a smooth coloured image of (width, height) pixels."""

    def make(size: tuple[int, int], seed: int = 0) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def mistake() -> Callable[..., object]:
    """Expects a KdeovError of one line that holds all the given words."""

    @contextmanager
    def expect(*words: object) -> Iterator[None]:
        with pytest.raises(KdeovError) as caught:
            yield
        text = str(caught.value)
        assert len(text.splitlines()) == 1
        assert [word for word in words if str(word) not in text] == [], text

    return expect


@pytest.fixture(scope="session")
def yolo_file(shared_data) -> Callable[[str], Path]:
    """Finds the pretrained weights of a backbone, or skips the test."""

    def find(backbone: str) -> Path:
        path = shared_data / "yolo" / f"{backbone}_state_dict.pt"
        if not path.is_file():
            pytest.skip(f"{path} is absent: no pretrained {backbone} to check against")
        return path

    return find


@pytest.fixture(scope="session")
def apart() -> Callable[[Tensor, Tensor], float]:
    """The largest difference of two tensors, as a share of the second one's largest value."""
    return lambda a, b: ((a - b).abs().max() / b.abs().max()).item()


TINY_TEXT = {"context_length": 28, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
# `tiny_clips` as open_clip describes them, and small relatives of SigLIP and MobileCLIP
OPEN_CLIP = {
    "tiny-vit": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": TINY_TEXT,
    },
    "tiny-resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TINY_TEXT,
    },
    "tiny-siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **TINY_TEXT,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "tiny-mobileclip": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "fastvit_t8",
            "timm_pool": "avg",
            "timm_proj": None,
        },
        "text_cfg": {**TINY_TEXT, "no_causal_mask": True},
    },
    "tiny-coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "layers": 1,
            "width": 64,
            "patch_size": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 8,
            "output_tokens": True,
        },
        "text_cfg": {**TINY_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TINY_TEXT, "attn_pooler_heads": 8},
    },
}
for _name in ("tiny-vit", "tiny-resnet"):
    OPEN_CLIP[f"{_name}-quickgelu"] = {**OPEN_CLIP[_name], "quick_gelu": True}


@pytest.fixture(scope="session")
def open_clip(tmp_path_factory):
    """The package, with the architectures of `OPEN_CLIP`."""
    package = import_open_clip()
    folder = tmp_path_factory.mktemp("open_clip")
    for name, config in OPEN_CLIP.items():
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    package.add_model_config(folder)
    return package


@pytest.fixture(scope="session")
def open_clip_models(open_clip) -> Callable[[str], nn.Module]:
    """Makes open_clip's own models of these architectures, with random weights, for reading."""

    @functools.cache
    def build(architecture: str) -> nn.Module:
        torch.manual_seed(0)
        return open_clip.create_model(architecture, load_weights=False).eval()

    return build
