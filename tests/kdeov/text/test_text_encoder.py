"""The frozen text tower."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdeov import FrozenCLIPTextEncoder
from kdeov.prompts import TEMPLATES
from kdeov.text.table import PrecomputedTextEncoder

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


def test_class_embeddings_take_the_names_of_a_mapping_and_of_a_template_set(encoder):
    expected = encoder.class_embeddings(["cat", "caf\u00e9"], TEMPLATES["plain"])
    assert torch.equal(encoder.class_embeddings({1: "cafe\u0301", 0: " cat "}, "plain"), expected)
    assert not torch.allclose(expected[0], expected[1])


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (None, "NoneType"), (3, "int"), (b"a cat", "bytes"), ({"a cat"}, "set"),
        ({"text": "a cat"}, "dict"), (["a cat", None], "text 1"), ([["a cat", "a pet"]], "text 0"),
        ([("a cat", "a dog")], "text 0"), ([b"a cat"], "text 0"), (torch.zeros(2, 28), "float32"),
        (torch.zeros(28, dtype=torch.long), "(28,)"), (torch.zeros(2, 5, dtype=torch.long), "28"),
        (torch.zeros(2, 28, dtype=torch.bool), "bool"), (torch.full((1, 28), 60_000), "vocabulary"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_in_one_line(encoder, mistake, texts, word):
    with mistake(word):
        encoder(texts)


def test_texts_come_in_any_sequence(encoder):
    expected = encoder(["a cat", "a dog"])
    for same in (("a cat", "a dog"), np.array(["a cat", "a dog"]), iter(["a cat", "a dog"])):
        assert torch.equal(encoder(same), expected)
    assert torch.equal(encoder("a cat"), encoder(["a cat"]))


def test_a_table_finds_a_text_in_any_spelling():
    table = PrecomputedTextEncoder(["cafe\u0301", "a  cat", "a cat"], torch.eye(3))
    assert torch.equal(table(["caf\u00e9", "cafe\u0301", "a cat", "a  cat"]).argmax(dim=1),
                       torch.tensor([0, 0, 2, 1]))  # fmt: skip
    assert torch.equal(table(" caf\u00e9 "), torch.eye(3)[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_a_tower_of_any_dtype_embeds_texts(clip_files, family, dtype):
    encoder = FrozenCLIPTextEncoder(clip_files[family])
    expected = encoder(TEXTS).double()
    embeddings = encoder.to(dtype)(TEXTS)
    assert embeddings.dtype == dtype
    assert torch.cosine_similarity(embeddings.double(), expected).min() > 0.999
