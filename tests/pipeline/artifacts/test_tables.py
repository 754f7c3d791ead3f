"""A table whose cells are separated otherwise than its suffix says is named with its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.tables import table_rows


def rows(folder: Path, name: str, text: str) -> list[list[str]]:
    (folder / name).write_text(text, encoding="utf-8")
    return list(table_rows(folder / name, ["image", "caption"], "prepare.path", "prepare.x"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "image;caption\na.jpg;a dog\n", ["semicolons", "commas"]),
        ("t.csv", '"image";"caption"\n"a.jpg";"a dog, a cat"\n', ["semicolons", "commas"]),
        ("t.csv", "\ufeffimage;text\na.jpg;a dog\n", ["semicolons", "commas"]),
        ("t.csv", "image\tcaption\na.jpg\ta dog\n", ["tabs", "call it .tsv"]),
        ("t.csv", "image|caption\na.jpg|a dog\n", ["bars", "commas"]),
        ("t.tsv", "image,caption\na.jpg,a dog\n", ["commas", "call it .csv"]),
        ("t.tsv", "image;caption\na.jpg;a dog\n", ["semicolons", ".tsv with tabs"]),
        ("t.csv", "image,caption\na.jpg,a dog, a cat\n", ["line 2", "quotes", "comma"]),
        ("t.tsv", "image\tcaption\na.jpg\ta dog\ta cat\n", ["line 2", "no tab"]),
    ],
)
def test_the_separator_is_named_with_what_to_do(
    tmp_path: Path, complains: Any, name: str, text: str, words: list[str]
) -> None:
    with complains(tmp_path / name, *words):
        rows(tmp_path, name, text)


def test_other_separators_in_texts_and_unused_columns_change_nothing(tmp_path: Path) -> None:
    text = "image,caption,a;b|c\na.jpg,one; two | three,x\n"
    assert rows(tmp_path, "t.csv", text) == [["a.jpg", "one; two | three"]]
    quoted = '\ufeff"image","caption"\n"a.jpg","one, two"\n'
    assert rows(tmp_path, "t.csv", quoted) == [["a.jpg", "one, two"]]
