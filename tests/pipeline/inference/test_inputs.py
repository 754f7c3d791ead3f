"""Images on the command line: files, folders, globs and lists, each once and in order."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdeov.errors import DataError
from pipeline.inference.inputs import image_paths, image_suffixes

NAMES = ("b.jpg", "a.png", "sub/c.webp", "sub/with space.JPEG", "sub/猫 café.bmp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    (tmp_path / "photos" / ".git").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / ".git" / "d.png")
    return tmp_path / "photos"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts bytes on standard input."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def found(*arguments: object) -> list[str]:
    """Paths, and for an error the whole text."""
    return [str(item) for item in image_paths([str(argument) for argument in arguments])]


def test_a_folder_gives_its_image_files_and_those_of_sub_folders_sorted(folder: Path) -> None:
    wanted = ["a.png", "b.jpg", "sub/c.webp", "sub/with space.JPEG", "sub/猫 café.bmp"]
    assert found(folder) == [str(folder / name) for name in wanted]


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert found(folder / "notes.txt") == [str(folder / "notes.txt")]


def test_an_image_that_is_named_twice_is_taken_once_where_it_came_first(folder: Path) -> None:
    names = found(folder / "sub" / "c.webp", folder, folder / "b.jpg")
    assert names[0] == str(folder / "sub" / "c.webp")
    assert len(names) == len(set(names)) == len(NAMES)


@pytest.mark.parametrize(
    ("pattern", "count"), [("*.png", 1), ("**/*.webp", 1), ("sub/*", 3), ("[ab].*", 2)]
)
def test_a_quoted_glob_is_expanded(folder: Path, pattern: str, count: int) -> None:
    assert len(found(folder / pattern)) == count


def test_a_name_that_looks_like_a_glob_is_a_file_where_there_is_one(folder: Path) -> None:
    odd = folder / "photo[1].png"
    Image.new("RGB", (4, 4)).save(odd)
    assert found(odd) == [str(odd)]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_on_standard_input_is_read(
    folder: Path, listed: Callable[[bytes], None], separator: bytes
) -> None:
    names = [folder / "b.jpg", folder / "sub" / "猫 café.bmp", folder / "sub" / "with space.JPEG"]
    listed(separator.join(os.fsencode(name) for name in names) + separator)
    assert found("-") == [str(name) for name in names]


def test_nul_separates_names_that_hold_line_breaks(
    folder: Path, listed: Callable[[bytes], None]
) -> None:
    odd = folder / "two\nlines.png"
    Image.new("RGB", (4, 4)).save(odd)
    listed(os.fsencode(odd) + b"\0" + os.fsencode(folder / "b.jpg") + b"\0")
    assert found("-") == [str(odd), str(folder / "b.jpg")]


@pytest.mark.parametrize(
    "argument", ["absent.jpg", "absent/", "*.nothing", "a" * 300, "empty", "line\nbreak"]
)
def test_what_names_no_image_is_an_error_and_the_others_go_on(folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    items = list(image_paths([str(folder / argument), str(folder / "a.png")]))
    assert isinstance(items[0], DataError)
    assert items[1:] == [folder / "a.png"]


def test_odd_lines_of_a_list_are_errors_of_their_own(
    folder: Path, listed: Callable[[bytes], None]
) -> None:
    name = os.fsencode(folder / "b.jpg")
    listed(b"\xef\xbb\xbf" + name + b"\n" + b"x" * 5000 + b"\nabsent.jpg\n")
    first, *others = image_paths(["-"])
    assert first == folder / "b.jpg"
    assert [type(item) for item in others] == [DataError, DataError]


@pytest.mark.parametrize("argument", ["", "-"])
def test_what_is_empty_names_no_image(listed: Callable[[bytes], None], argument: str) -> None:
    listed(b"\n\n")
    (item,) = image_paths([argument])
    assert isinstance(item, DataError)


def test_a_closed_standard_input_is_named(complains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with complains("standard input"):
        list(image_paths(["-"]))


def test_heat_maps_in_a_folder_are_no_photographs(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "b.jpg.heatmap.png")
    assert len(found(folder)) == len(NAMES)


def test_no_argument_is_an_error_that_says_what_to_give(complains: Any) -> None:
    with complains("folders", "-"):
        list(image_paths([]))


def test_a_terminal_is_not_read_as_a_list(complains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as stdin, complains("standard input"):
        monkeypatch.setattr(sys, "stdin", stdin)
        list(image_paths(["-"]))
    os.close(main)


def test_every_format_that_pillow_reads_is_an_image_file_in_a_folder() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} <= image_suffixes()
    assert not {".pdf", ".txt", ".mp4"} & image_suffixes()
