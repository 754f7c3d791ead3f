"""Storage: a folder and a bucket keep the same promises, also while the network fails."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.remote_file import BLOCK
from pipeline.storage.storage import Storage, check_address, open_storage
from tests.helpers.s3_server import SECRET


def test_what_is_written_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/b.json", b"first")
    storage.write("a/b.json", b"second")
    (tmp_path / "local").write_bytes(bytes(range(256)) * 100)
    storage.upload(tmp_path / "local", "a/c.tar")
    assert storage.read("a/b.json") == b"second"
    assert (storage / "a").read("c.tar") == (tmp_path / "local").read_bytes()
    assert (storage.size("a/b.json"), storage.size("a/c.tar")) == (6, 25600)
    storage.download("a/c.tar", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == (tmp_path / "local").read_bytes()


def test_files_and_folders_are_listed_without_what_lies_deeper(storage: Storage) -> None:
    for name in ("x", "a/z", "a/y", "a/deeper/1", "ab/2"):
        storage.write(name, b".")
    assert storage.names() == ["a", "ab", "x"]
    assert storage.names("a") == (storage / "a").names() == ["deeper", "y", "z"]


def test_what_is_absent_is_told_from_what_cannot_be_read(storage: Storage, tmp_path: Path) -> None:
    storage.write("there/x", b".")
    assert storage.size("absent") is None
    assert storage.size("there") is None  # a folder is no file
    assert storage.names("absent") == []
    storage.delete("absent")
    for action in (storage.read, storage.open, lambda n: storage.download(n, tmp_path / "copy")):
        with pytest.raises(FileNotFoundError):
            action("absent")
    assert not (tmp_path / "copy").exists()


def test_what_is_deleted_is_gone(storage: Storage) -> None:
    storage.write("a/x", b".")
    storage.delete("a/x")
    assert (storage.size("a/x"), storage.names("a")) == (None, [])


def test_a_file_is_read_from_any_place(storage: Storage) -> None:
    data = os.urandom(3 * BLOCK // 2)
    storage.write("x", data)
    with storage.open("x") as file:
        assert file.read(10) == data[:10]
        file.seek(BLOCK - 5)
        assert file.read(10) == data[BLOCK - 5 : BLOCK + 5]
        assert file.seek(-3, io.SEEK_END) == len(data) - 3
        assert file.read() == data[-3:] and file.read() == b""


def test_a_storage_that_can_be_written_is_left_as_it_was(storage: Storage) -> None:
    storage.require_writable()
    assert storage.names() == []


def test_a_folder_is_not_made_to_see_whether_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Callable[..., Any]
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{path} is made or removed, and others may use it")

    new = open_storage(str(tmp_path / "new" / "runs"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        patch.setattr(Path, "rmdir", refuse)
        new.require_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "disk").symlink_to("/not/mounted")
    with complains(tmp_path / "disk" / "runs", "cannot be written"):
        open_storage(str(tmp_path / "disk" / "runs")).require_writable()
    with complains("/proc/new", "cannot be written"):
        open_storage("/proc/new").require_writable()
    tmp_path.chmod(0)  # the folder may not even be searched
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root may search all
        with complains(tmp_path / "new" / "runs", "cannot be written"):
            new.require_writable()
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_used_is_named(
    tmp_path: Path, complains: Callable[..., Any]
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with complains(tmp_path / "file", "cannot be written"):
        open_storage(str(tmp_path / "file")).require_writable()
    with complains(tmp_path / "file"):
        open_storage(str(tmp_path / "file")).read("x")


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "s3://", "s3:///x", "s3://bucket/x?versionId=1", f"s3://key:{SECRET}@bucket",
     "s3:/bucket/x", "gs:bucket"],
)  # fmt: skip
def test_an_address_is_a_folder_or_a_bucket(address: str, complains: Callable[..., Any]) -> None:
    with complains("neither a folder nor s3://BUCKET/PREFIX") as caught:
        check_address(address)
    assert SECRET not in str(caught.value)


def test_a_swap_writes_only_over_the_bytes_that_are_expected(storage: Storage) -> None:
    assert not storage.swap("a/x", b"old", b"new")  # there is none
    assert storage.swap("a/x", None, b"one")
    assert not storage.swap("a/x", None, b"two")
    assert not storage.swap("a/x", b"two", b"three")
    assert storage.read("a/x") == b"one"
    assert storage.swap("a/x", b"one", b"two")
    assert storage.read("a/x") == b"two" and storage.names("a") == ["x"]


@pytest.mark.slow
def test_of_swaps_at_once_one_succeeds(storage: Storage) -> None:
    storage.write("x", b"0")
    for number in range(20):
        old = storage.read("x")
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda n, o=old, i=number: storage.swap("x", o, b"%d-%d" % (i, n)),
                                range(4)))  # fmt: skip
        assert sum(won) == 1
        assert storage.read("x") == b"%d-%d" % (number, won.index(True))
