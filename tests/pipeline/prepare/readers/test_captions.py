"""A cell holds a caption, or a list of captions; another structure is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prepare.images import UnusableImage
from pipeline.prepare.readers.captions import clean_captions, split_list

TEXTS = st.lists(st.text(st.sampled_from("ab '\",[]\\é\n"), max_size=8), max_size=4)


@settings(deadline=None)
@given(texts=TEXTS)
def test_a_list_in_a_cell_is_split_as_it_was_written(texts: list[str]) -> None:
    assert split_list(json.dumps(texts)) == texts
    assert split_list(json.dumps(texts, ensure_ascii=False, indent=1)) == texts
    assert split_list(repr(texts)) == texts
    if len(texts) != 1:
        assert split_list(str(np.array(texts, dtype=object)) if texts else "[]") == texts
        assert split_list(repr(tuple(texts))) == (texts or ["()"])


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ('["a dog", "a cat"]', ["a dog", "a cat"]),
        ("['a dog', \"it's a cat\"]", ["a dog", "it's a cat"]),
        ("['a dog' 'a cat']", ["a dog", "a cat"]),
        ('[" a  dog ", "", null, "\u200b"]', ["a dog"]),
        ("[None, 'a dog']", ["a dog"]),
        ("[a dog] on grass", ["[a dog] on grass"]),
        ("[illustration]", ["[illustration]"]),
        ('("Stop", it says)', ['("Stop", it says)']),
        ('("Stop")', ['("Stop")']),
        ('"Stop", it says', ['"Stop", it says']),
        ("a dog ['x']", ["a dog ['x']"]),
        ("[", ["["]),
        (json.dumps(json.dumps(["a dog", "a cat"])), ["a dog", "a cat"]),
        (json.dumps("['a dog' 'a cat']"), ["a dog", "a cat"]),
        ('"[sic]" it says', ['"[sic]" it says']),
    ],
)
def test_a_cell_is_read_as_it_is_meant(cell: str, captions: list[str]) -> None:
    assert clean_captions([cell]) == captions


@pytest.mark.parametrize(
    "cell",
    [
        "['a dog', 'a c",
        '["a dog"',
        '[["a dog"], ["a cat"]]',
        '[{"raw": "a dog"}]',
        '{"raw": "a dog"}',
        "{'a dog', 'a cat'}",
        "[1, 2]",
        "[b'a dog']",
        "array(['a dog'], dtype=object)",
        "['a dog' ... 'a cat']",
        "list(['a dog', 'a cat'])",
        "tuple(['a dog'])",
        "[\u2018a dog\u2019, \u2018a cat\u2019]",
    ],
)
def test_another_structure_is_refused(cell: str) -> None:
    with pytest.raises(UnusableImage, match="no list of captions"):
        clean_captions(["a caption", cell])


@pytest.mark.parametrize("cell", ["[]", '[""]', "[None]", "\u200b", "\u3164 \ufeff"])
def test_a_cell_without_a_visible_caption_has_none(cell: str) -> None:
    with pytest.raises(UnusableImage, match="no caption"):
        clean_captions([cell])
    assert clean_captions([cell, "a dog"]) == ["a dog"]
