"""Tokens of the tokenizers package, as open_clip's HFTokenizer cuts, pads and completes them."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdeov.runtime.card import HF_TOKENIZER, TokenizerCard
from kdeov.runtime.tokenizer import open_tokenizer
from kdeov.weights.towers import import_open_clip

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<cls>", "<sep>"]
WORDS = [*SPECIAL, "a", "cat", "two", "dogs", "on", "beach", "traffic", "light", ",", "!"]
TEXTS = ["a cat", "two dogs on a beach", "", "Traffic light, at night!", "a </s> cat", "cat " * 40]
KINDS = {
    "siglip": {"clean": "canonicalize"},
    "clipa": {"strip_sep_token": True},
    "clips": {"tokenizer_mode": "clips"},
    "lower": {"clean": "lower", "padding_side": "left", "truncation_side": "left"},
}


@pytest.fixture(params=KINDS)
def pair(request, tmp_path):
    """open_clip's tokenizer, and the runtime's of the same files."""
    options = KINDS[request.param]
    raw = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, "<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = "$A </s>" if request.param == "siglip" else "<cls> $A <sep>"
    raw.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[(t, SPECIAL.index(t)) for t in ("</s>", "<cls>", "<sep>")]
    )
    sides = {side: options.get(side, "right") for side in ("padding_side", "truncation_side")}
    names = {"eos": "</s>", "unk": "<unk>", "bos": "<s>", "cls": "<cls>", "sep": "<sep>"}
    names["pad"] = "</s>" if request.param == "siglip" else "<pad>"
    PreTrainedTokenizerFast(
        tokenizer_object=raw, **{f"{kind}_token": token for kind, token in names.items()}, **sides
    ).save_pretrained(tmp_path)
    kept = {key: value for key, value in options.items() if key not in sides}
    theirs = import_open_clip().tokenizer.HFTokenizer(str(tmp_path), context_length=12, **kept)
    backend = theirs.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    (tmp_path / HF_TOKENIZER).write_text(backend.to_str(), encoding="utf-8")
    card = TokenizerCard(
        kind="hf",
        context_length=12,
        clean=options.get("clean", "whitespace"),
        mode=options.get("tokenizer_mode", ""),
        strip_sep_token=options.get("strip_sep_token", False),
        ids={kind: getattr(theirs.tokenizer, f"{kind}_token_id") for kind in names},
        **sides,
    )
    return open_tokenizer(tmp_path / HF_TOKENIZER, card), theirs


def test_tokens_are_those_of_open_clip(pair):
    ours, theirs = pair
    found = ours(TEXTS)
    assert found.dtype == np.int64
    assert found.tolist() == theirs(TEXTS).tolist()
    for text in TEXTS:
        assert ours([text]).tolist() == theirs([text]).tolist(), text


def test_tokens_of_any_text_are_those_of_open_clip(pair):
    ours, theirs = pair

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from([*WORDS, "é", "_", "\n", "x&amp;y"]), max_size=20))
    def check(words):
        text = " ".join(words)
        assert ours([text]).tolist() == theirs([text]).tolist()

    check()


def test_long_texts_are_cut_with_one_warning(pair, caplog):
    ours, _ = pair
    with caplog.at_level(logging.WARNING):
        ours(["a cat", ""])
        assert caplog.messages == []
        ours(["cat " * 40])
        ours(["cat " * 40])
    assert len(caplog.messages) == 1 and "12 tokens" in caplog.text


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, mistake):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with mistake("tokenizers", "pip install 'kdeov[hf]'"):
        open_tokenizer(tmp_path / HF_TOKENIZER, TokenizerCard(kind="hf"))


def test_a_damaged_file_is_reported(tmp_path, mistake):
    path = tmp_path / HF_TOKENIZER
    path.write_text("{}", encoding="utf-8")
    with mistake(path):
        open_tokenizer(path, TokenizerCard(kind="hf", ids={"pad": 0}))


@pytest.mark.parametrize(
    ("settings_", "word"),
    [({}, "pad"), ({"mode": "clips", "ids": {"pad": 0}}, "bos"), ({"mode": "new"}, "new")],
)
def test_settings_that_do_not_suffice_are_reported(settings_, word, tmp_path, mistake):
    path = tmp_path / HF_TOKENIZER
    path.write_text(Tokenizer(models.WordLevel({"a": 0}, "a")).to_str(), encoding="utf-8")
    with mistake(tmp_path, word):
        open_tokenizer(path, TokenizerCard(kind="hf", **settings_))
