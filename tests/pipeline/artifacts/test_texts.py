"""Captions, class names and names of files are compared as a person would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.texts import class_name, clean_caption, file_name

INVISIBLE = [
    "", " ", "\t\r\n", "\u00a0", "\u200b", "\ufeff", "\u2060\u200d", "\u00ad", "\u3164", "\u2800",
    "\u0301", "\ufe0f", "\u202e \u202c", "\x00\x07", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("text", INVISIBLE)
def test_an_invisible_caption_is_none(text: str) -> None:
    assert clean_caption(text) == ""


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("  a\t dog\n", "a dog"),
        ("❤️", "❤️"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner changes the letters
        (".", "."),
        ("\ue000", "\ue000"),  # for private use, which some fonts show
    ],
)
def test_a_visible_caption_keeps_its_characters(text: str, caption: str) -> None:
    assert clean_caption(text) == caption


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("polar_bear", "polar bear"),
        ("  polar \t bear_", "polar bear"),
        ("cafe\u0301", "caf\u00e9"),
        ("_", ""),
        ("\u200b", ""),
    ],
)
def test_a_class_has_one_name(text: str, name: str) -> None:
    assert class_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("./a.jpg", "a.jpg"),
        ("././sub//a.jpg", "sub/a.jpg"),
        ("sub/./a.jpg", "sub/a.jpg"),
        ("/data//a.jpg", "/data/a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("sub/../a.jpg", "sub/../a.jpg"),  # another file, where `sub` is a link
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("...jpg", "...jpg"),
        (" a.jpg", " a.jpg"),
    ],
)
def test_a_file_has_one_name(text: str, name: str) -> None:
    assert file_name(text) == name


@settings(deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=12))
def test_a_spelling_is_its_own(text: str) -> None:
    assert clean_caption(clean_caption(text)) == clean_caption(text)
    assert class_name(class_name(text)) == class_name(text)
    assert file_name(file_name(text)) == file_name(text)
