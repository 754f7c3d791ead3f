"""Tokens of the runtime equal those of clip and of open_clip."""

from __future__ import annotations

import gzip
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdeov.prompts import published_templates
from kdeov.runtime.card import OPEN_CLIP_SPECIAL_TOKENS, TokenizerCard
from kdeov.runtime.tokenizer import ClipTokenizer, open_tokenizer
from kdeov.weights.clip import import_clip
from kdeov.weights.towers import import_open_clip

clip = import_clip()
MERGES = Path(clip.simple_tokenizer.default_bpe())
OURS = ClipTokenizer(MERGES, TokenizerCard())
ODD = [
    "",
    " ",
    "\n",
    "a photo of a cat.",
    "Two DOGS,  on a beach at 10:30!",
    "it's I'LL they'Ve D'ONT",
    "\U0001f431\U0001f469\u200d\U0001f680 \U0001f1eb\U0001f1f7",
    "&amp;amp;lt;b&gt; &#39;x&#x27; &nbsp;&copy",
    "&#28;&#xD800;&#0;&#x110000;",
    "a\x00b\x07c\x1b[31mred\x1b[0m\x7f\x85",
    "tab\tnew\nline\r\nend\x0b\x0c\x1c\x1d\x1f.",
    "schÃ¶n â€œquotesâ€\x9d l’été",
    "naïve café nai\u0308ve cafe\u0301 a\u0301\u0302\u0303\u0304",
    "İstanbul IĞDIR ışık Straße ǅ ﬁ ſ",
    "مرحبا بالعالم ١٢٣",
    "两只猫在沙滩上。猫猫猫",
    "こんにちは ﾊﾝｶｸ ｱ",
    "नमस्ते दुनिया",
    "한국어 \u1112\u1161\u11ab",
    "\ud83d\ude00 \ud800 lone \udfff",
    "zero\u200bwidth\u200cjoin\u200der\ufeff\u2060",
    "<|endoftext|> inside <|startoftext|> <|ENDOFTEXT|>",
    "<end_of_text> <start_of_text>",
    "<|endoftext|>x<|endoftext|>",
    "snake_case __init__ _",
    "1234567890 ½ ² Ⅷ ٣",
    "aaaaaaaaaaaaaaaa",
    "!!!???...---",
    "http://example.com/?q=a&b=c#d",
    "a\u00a0b\u2003c\u3000d",
    "word " * 200,
    "x" * 3000,
    "é" * 300,
    "猫" * 200,
    "'s't're've'm'll'd 'S'T",
    "e.g. U.S.A. rock'n'roll",
    "\u202eright to left\u202c",
    "\U000e0041\U0010ffff\ufffe",
    "ﷺ",
    "lol haha" * 9,
]


def expected(texts, context=77):
    return clip.tokenize(texts, context_length=context, truncate=True).numpy()


def tokens(texts):
    found = OURS(texts)
    assert found.dtype == np.int64
    return found


def test_tokens_of_odd_texts_are_those_of_clip():
    for text in ODD:
        assert tokens([text]).tolist() == expected([text]).tolist(), text
    assert tokens(ODD).tolist() == expected(ODD).tolist()


def test_tokens_of_published_prompts_are_those_of_clip():
    prompts = [t.format("traffic light") for s in published_templates().values() for t in s]
    assert np.array_equal(tokens(prompts), expected(prompts))


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(), max_size=120))  # surrogates too
def test_tokens_of_any_text_are_those_of_clip(text):
    assert np.array_equal(tokens([text]), expected([text]))


@settings(max_examples=200, deadline=None)
@given(st.text("abeinst", min_size=1, max_size=90))
def test_merges_are_applied_in_the_order_of_clip(word):
    assert np.array_equal(tokens([word]), expected([word]))


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("more", [(), ("[MASK]", "<image>")])
def test_tokens_are_those_of_open_clip(clean, more):
    theirs = import_open_clip().SimpleTokenizer(
        clean=clean, context_length=28, additional_special_tokens=list(more)
    )
    ours = ClipTokenizer(
        MERGES,
        TokenizerCard(
            clean=clean, context_length=28, special_tokens=(*OPEN_CLIP_SPECIAL_TOKENS, *more)
        ),
    )
    texts = [*ODD, "an <image> of M <IMAGE> [MASK]"]
    assert np.array_equal(ours(texts), theirs(texts).numpy())

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=60))
    def check(text):
        assert np.array_equal(ours([text]), theirs([text]).numpy())

    check()


def test_a_cut_text_ends_with_the_end_and_is_reported_once(caplog):
    ours = ClipTokenizer(MERGES, TokenizerCard(context_length=8))
    with caplog.at_level(logging.WARNING):
        ours(["a b c d e f"])
        assert caplog.messages == []
        cut = ours(["a b c d e f g", "a b c d e f g h i"])
        ours(["a b c d e f g h i"])
    assert np.array_equal(cut, expected(["a b c d e f g", "a b c d e f g h i"], 8))
    assert len(caplog.messages) == 1 and "8 tokens" in caplog.text


def test_one_word_of_a_hundred_thousand_letters_takes_no_minute():
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), 100_000)
    start = time.monotonic()
    assert OURS(["".join(letters)])[0, -1] == expected(["a"])[0].max()
    assert time.monotonic() - start < 10


def test_a_text_of_no_words_is_start_and_end():
    assert OURS([""])[0].tolist() == [49406, 49407] + [0] * 75
    assert OURS([]).shape == (0, 77)


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"#\na b\n"), gzip.compress(b"\xff" * 9)]
)
def test_damaged_merges_are_reported(content, tmp_path, mistake):
    path = tmp_path / MERGES.name
    path.write_bytes(content)
    with mistake(path):
        open_tokenizer(path, TokenizerCard())


@pytest.mark.parametrize(
    ("card", "word"),
    [
        (TokenizerCard(kind="sentencepiece"), "sentencepiece"),
        (TokenizerCard(clean="random"), "random"),
        (TokenizerCard(special_tokens=("<end>",)), "start and end"),
        (TokenizerCard(special_tokens=("<start>", "(")), "special tokens"),
    ],
)
def test_unknown_settings_are_reported(card, word, tmp_path, mistake):
    path = tmp_path / MERGES.name
    path.write_bytes(MERGES.read_bytes())
    with mistake(tmp_path, word):
        open_tokenizer(path, card)
