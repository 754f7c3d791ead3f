"""Filters: by folder, name and date, as people write them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.search.index import Index
from pipeline.search.where import Where
from tests.helpers.indexes import file_of, unit_rows, write_index

PATHS = {
    "a/1.jpg": "2023-12-31T23:59:59",
    "a/b/2.png": "2024-01-01T00:00:00",
    "a-c/3.jpg": "2024-05-01T10:00:00",
    "d,e/4.jpg": "2024-05-31T10:00:00",
    "5.jpg": "2025-01-01T00:00:00",
    "no date.jpg": None,
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    files = [file_of(row, path, moment) for row, (path, moment) in enumerate(PATHS.items())]
    return write_index(tmp_path / "index", unit_rows(len(PATHS)), files)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["folder=a"], ["a/1.jpg", "a/b/2.png"]),
        (["folder=a/"], ["a/1.jpg", "a/b/2.png"]),
        (["folder=/photos/a/b"], ["a/b/2.png"]),
        (["folder=."], list(PATHS)),
        (["folder=d,e"], ["d,e/4.jpg"]),
        (["name=*.png"], ["a/b/2.png"]),
        (["name=5.jpg"], ["5.jpg"]),
        (["date=2024-05"], ["a-c/3.jpg", "d,e/4.jpg"]),
        (["date=2024-01-01"], ["a/b/2.png"]),
        (["after=2024"], ["a/b/2.png", "a-c/3.jpg", "d,e/4.jpg", "5.jpg"]),
        (["before=2024"], ["a/1.jpg"]),
        (["after=2024-05-02, before=2025"], ["d,e/4.jpg"]),
        (["name=*.jpg,folder=a", "before=2024-06-01"], ["a/1.jpg"]),
        (["folder=nowhere"], []),
    ],
)
def test_a_filter_finds_those_that_fit(index: Index, texts: list[str], wanted: list[str]) -> None:
    hits = index.search(unit_rows(1, seed=3)[0], 10, Where.parse(texts))
    assert sorted(hit.path for hit in hits) == sorted(wanted)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("camera=x", "camera=x"),
        ("a", "folder="),
        ("folder=", "folder="),
        ("date=2024-13", "2024-13"),
        ("after=yesterday", "yesterday"),
        ("before=2024-02-30", "2024-02-30"),
        ("date=2024,date=2025", "twice"),
    ],
)
def test_what_is_no_filter_is_named(complains: Callable[..., object], text: str, word: str) -> None:
    with complains("--where", word):  # type: ignore[attr-defined]
        Where.parse([text])


@pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc", os.sep])
def test_a_folder_that_leaves_the_indexed_one_is_refused(
    index: Index, complains: Callable[..., object], folder: str
) -> None:
    with complains("--where", folder):  # type: ignore[attr-defined]
        index.search(unit_rows(1)[0], 3, Where.parse([f"folder={folder}"]))
