"""The teacher and its identity."""

from __future__ import annotations

import json

import pytest
import torch

from kdeov import ClipTeacher, OpenClipTeacher


@pytest.fixture(params=["resnet", "vit"])
def family(request):
    return request.param


def test_teacher_embeds_as_clip_does(clip, tiny_clips, clip_files, image, family):
    teacher = ClipTeacher.load(clip_files[family])
    model = clip.model.build_model(tiny_clips[family].state_dict()).float()
    pixels = teacher.preprocess([image((90, 70), seed) for seed in range(3)])
    assert pixels.shape == (3, 3, 64, 64)
    torch.testing.assert_close(teacher.encode_image(pixels), model.encode_image(pixels))
    tokens = clip.tokenize(["a cat", "a dog"], context_length=28)
    torch.testing.assert_close(
        teacher.encode_text(["a cat", "a dog"]), model.encode_text(tokens), rtol=0, atol=1e-5
    )


def test_teacher_is_frozen_and_stays_in_eval(clip_files, family):
    teacher = ClipTeacher.load(clip_files[family]).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)
    assert not teacher.encode_image(pixels).requires_grad


def test_identity_follows_the_weights(tiny_clips, clip_files, family):
    state = tiny_clips[family].state_dict()
    identity = ClipTeacher.load(clip_files[family], name="tiny").identity()
    assert ClipTeacher(state, "tiny").identity() == identity
    for weight in ("visual.conv1.weight", "ln_final.bias", "logit_scale"):
        changed = {name: value.clone() for name, value in state.items()}
        changed[weight].view(-1)[0] += 1
        assert ClipTeacher(changed, "tiny").identity() != identity


def test_identity_is_json(clip_files, family):
    stored = ClipTeacher.load(clip_files[family]).identity().to_dict()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["name"] == f"{family}.safetensors"
    assert (stored["embed_dim"], stored["context_length"]) == (32, 28)
    assert stored["transform"]["size"] == 64


def test_one_damaged_shape_is_refused_in_one_line(tiny_clips, mistake, family):
    state = {**tiny_clips[family].state_dict(), "visual.conv1.weight": torch.zeros(1, 1, 1, 1)}
    with mistake("tiny"):
        ClipTeacher(state, "tiny")


def test_what_makes_no_teacher_is_refused(clip_files, mistake):
    with mistake("'gpu'"):
        ClipTeacher.load(clip_files["vit"], "gpu")
    with mistake("None"):
        ClipTeacher.load(None)
    for architecture, pretrained in ((None, None), (3, "openai"), ("ViT-B-32", None)):
        with mistake(pretrained if architecture == "ViT-B-32" else architecture):
            OpenClipTeacher.load(architecture, pretrained)
