"""Files of a folder are read whole, or refused with a reason; nothing leads out of it or waits."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from pipeline.prepare.images import UnusableImage
from pipeline.prepare.readers import folder_files
from pipeline.prepare.readers.folder_files import read_within, version_within


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder beside which lies a secret."""
    folder = (tmp_path / "own").resolve()
    (folder / "deep").mkdir(parents=True)
    for path in (folder / "a.jpg", folder / "deep" / "b.jpg", tmp_path / "secret"):
        path.write_bytes(path.name.encode())
    return folder


@pytest.mark.parametrize("name", ["ä 漢.jpg", "two\nlines.jpg", " space .jpg", "~", "a#b?c%20.jpg"])
def test_a_file_may_be_called_anything(root: Path, name: str) -> None:
    (root / name).write_bytes(name.encode())
    assert read_within(root, name) == name.encode()


def test_accents_may_be_composed_otherwise_than_on_disk(root: Path) -> None:
    composed, apart = "\u00e9\u00fc.jpg", "e\u0301u\u0308.jpg"
    (root / "mixed").mkdir()
    (root / "mixed" / "\u00e9u\u0308.jpg").write_bytes(b"mixed")
    assert read_within(root, f"mixed/{composed}") == read_within(root, f"mixed/{apart}") == b"mixed"
    (root / composed).write_bytes(b"composed")
    (root / apart).write_bytes(b"apart")
    assert (read_within(root, composed), read_within(root, apart)) == (b"composed", b"apart")
    with pytest.raises(UnusableImage, match="no such file"):
        read_within(root, "\u00e8.jpg")


def test_links_are_followed_within_the_folder(root: Path) -> None:
    (root / "link.jpg").symlink_to(root / "deep" / "b.jpg")
    (root / "again").symlink_to("deep")
    assert read_within(root, "link.jpg") == read_within(root, "again/b.jpg") == b"b.jpg"
    assert read_within(root, "deep/../a.jpg") == b"a.jpg"


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/hostname", "/a.jpg", "deep/../../secret", "out.jpg", "outside/secret"],
)
def test_nothing_outside_the_folder_is_read(root: Path, name: str) -> None:
    (root / "out.jpg").symlink_to(root.parent / "secret")
    (root / "outside").symlink_to(root.parent)
    with pytest.raises(UnusableImage, match="lies outside the folder"):
        read_within(root, name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.jpg", "no such file"),
        ("a.jpg/b.jpg", "unreadable .Not a directory"),
        ("deep", "regular file"),
        ("", "has no name"),
        ("pipe.jpg", "regular file"),
        ("round.jpg", "unreadable .Too many levels"),
        ("round.jpg/b.jpg", "unreadable .Too many levels"),
        ("broken.jpg", "no such file"),
        ("a" * 300, "unreadable .File name too long"),
        ("nu\0ll", "holds a null"),
        ("caf\udce9.jpg", "not UTF-8"),
    ],
)
def test_what_is_no_file_is_refused_with_the_reason(root: Path, name: str, reason: str) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "round.jpg").symlink_to("circle.jpg")
    (root / "circle.jpg").symlink_to("round.jpg")
    (root / "broken.jpg").symlink_to("none.jpg")
    with pytest.raises(UnusableImage, match=reason):
        read_within(root, name)


def test_a_file_that_may_not_be_read_is_refused(root: Path) -> None:
    (root / "a.jpg").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(UnusableImage, match="Permission denied"):
            read_within(root, "a.jpg")
    finally:
        os.seteuid(user)


def test_a_file_too_large_for_any_image_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_files, "MAX_BYTES", 4)
    with pytest.raises(UnusableImage, match="larger than"):
        read_within(root, "a.jpg")


def test_the_version_of_a_file_follows_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "caf\u00e9.jpg"
    path.write_bytes(b"one")
    before = version_within(tmp_path, path.name)
    assert before and version_within(tmp_path, path.name) == before
    assert version_within(tmp_path, unicodedata.normalize("NFD", path.name)) == before
    (tmp_path / "link.jpg").symlink_to(path)
    assert version_within(tmp_path, "link.jpg") == before
    path.write_bytes(b"other")
    assert version_within(tmp_path, path.name) != before
    for name in ("absent.jpg", "absent/caf\u00e9.jpg", "nul\0l", "\udc80"):
        assert version_within(tmp_path, name) == ""
