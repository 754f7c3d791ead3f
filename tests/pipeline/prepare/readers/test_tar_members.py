"""Members of tars are found where `tarfile` finds them, and no damage passes for the end."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prepare.readers.tar_members import plain_members

NAMES = st.text(st.sampled_from("abcXYZ019_-.é漢"), min_size=1, max_size=130)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5)
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)


def pack(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1_700_000_000, "somebody"
            tar.addfile(info, io.BytesIO(data))
    return path


@settings(max_examples=80, deadline=None)
@given(members=MEMBERS, kind=st.sampled_from(FORMATS))
def test_members_lie_where_tarfile_finds_them(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]], kind: int
) -> None:
    path = pack(tmp_path_factory.getbasetemp() / "own.tar", members, kind)
    whole = path.read_bytes()
    found = [(name, whole[at : at + size]) for name, at, size in plain_members(path)]
    assert found == members


def edited(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


@pytest.mark.parametrize("at", [0, 1024, 2048])
def test_a_damaged_header_is_no_end(tmp_path: Path, complains: Any, at: int) -> None:
    path = pack(tmp_path / "own.tar", [("a", b"1"), ("b", b"2"), ("c", b"3")])
    assert len(list(plain_members(path))) == 3
    edited(path, at, b"x")
    with complains(path, "damaged tar", "get it again"):
        list(plain_members(path))


@pytest.mark.parametrize("end", [0, 100, 1024, 1500, 3072])
def test_a_tar_that_ends_too_early_is_refused(tmp_path: Path, complains: Any, end: int) -> None:
    path = pack(tmp_path / "own.tar", [("a", b"1"), ("b", b"2" * 900), ("c", b"3")])
    path.write_bytes(path.read_bytes()[:end])
    with complains(path, "damaged tar"):
        list(plain_members(path))


def test_a_size_below_zero_is_refused(tmp_path: Path, complains: Any) -> None:
    path = pack(tmp_path / "own.tar", [("a", b"1")])
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136], header[148:156] = b"-0000001000\0", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    edited(path, 0, header)
    with complains(path, "damaged tar"):
        list(plain_members(path))
