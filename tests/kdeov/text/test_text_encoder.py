"""The frozen text tower."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

from kdeov import FrozenCLIPTextEncoder
from kdeov.prompts import TEMPLATES

TEXTS = ["a cat", "two dogs on a beach", "", "Traffic light, at night!", "naïve café 猫"]


@pytest.fixture(scope="module")
def encoder(clip_file):
    return FrozenCLIPTextEncoder(clip_file)


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_texts_are_embedded_as_clip_embeds_them(clip, tiny_clips, clip_files, family):
    model = clip.model.build_model(tiny_clips[family].state_dict()).float()
    tokens = clip.tokenize(TEXTS, context_length=28)
    expected = model.encode_text(tokens)
    encoder = FrozenCLIPTextEncoder(clip_files[family])
    torch.testing.assert_close(encoder(TEXTS), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder(tokens), expected, rtol=0, atol=1e-5)


def test_batch_size_changes_nothing(encoder):
    torch.testing.assert_close(encoder(TEXTS, batch_size=2), encoder(TEXTS), rtol=0, atol=1e-5)


def test_encoder_is_frozen_and_stays_in_eval(encoder):
    parent = torch.nn.ModuleList([encoder]).train()
    assert parent.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(TEXTS).requires_grad


@pytest.mark.parametrize("templates", TEMPLATES.values(), ids=TEMPLATES)
def test_class_embeddings_are_unit_means_of_unit_prompts(encoder, templates):
    names = ("cat", "fire hydrant")
    embeddings = encoder.class_embeddings(names, templates)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))
    for name, embedding in zip(names, embeddings, strict=True):
        mean = sum(F.normalize(encoder([t.replace("{}", name)])[0], dim=0) for t in templates)
        torch.testing.assert_close(embedding, mean / mean.norm(), rtol=0, atol=1e-5)


def test_long_texts_are_cut_with_one_warning(clip_file, caplog):
    encoder = FrozenCLIPTextEncoder(clip_file)
    start = "word " * 26  # fills the context but for its two ends
    with caplog.at_level(logging.WARNING):
        encoder(["short"])
        assert caplog.messages == []
        same = encoder([start, start + "more", start + "of something else"])
        encoder([start])
    assert len(caplog.messages) == 1 and "28 tokens" in caplog.text
    torch.testing.assert_close(same, same[:1].expand(3, -1))
