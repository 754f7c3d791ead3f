"""Files with digests, in a folder and in a storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeov.errors import DataError
from pipeline.storage.checked import (
    checked_json,
    parse_checked_json,
    read_checked,
    read_checked_json,
    read_record,
    write_checked,
    write_checked_json,
)
from pipeline.storage.storage import Storage, open_storage
from tests.helpers.damage import flips

VALUES = {"a": [1, 2.5, "x"], "b": {"c": None}}


@dataclass(frozen=True)
class Record:
    a: list[Any]
    b: dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "run"))


def test_json_with_a_digest_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_checked_json(tmp_path / "a.json", VALUES)
    assert read_checked_json(tmp_path / "a.json") == VALUES
    assert read_record(Record, tmp_path / "a.json") == Record(**VALUES)
    assert (tmp_path / "a.json").read_bytes() == checked_json(VALUES)


def test_damage_to_json_names_file_and_stage_or_changes_no_value(
    tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "a.json"
    write_checked_json(path, VALUES)
    whole = path.read_bytes()
    for damaged in [b"", b"[]", b"{}", b"\xff", whole[:40], *flips(whole, 100, seed=0)]:
        path.write_bytes(damaged)
        try:
            assert read_checked_json(path, "embed") == VALUES
        except DataError as error:
            assert str(path) in str(error) and "dvc repro -f embed" in str(error)
        try:
            assert parse_checked_json(damaged, "here", "mend it") == VALUES
        except DataError as error:
            assert "here: " in str(error) and "mend it" in str(error)
    path.unlink()
    with complains(path, "dvc repro embed"):
        read_checked_json(path, "embed")


def test_a_record_with_other_fields_is_of_another_version(tmp_path: Path, complains: Any) -> None:
    write_checked_json(tmp_path / "a.json", {"a": [], "c": 1})
    with complains(tmp_path / "a.json", "dvc repro -f distill"):
        read_record(Record, tmp_path / "a.json", "distill")


@given(data=st.binary())
def test_any_bytes_come_back(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = open_storage(str(tmp_path_factory.getbasetemp() / "bytes"))
    write_checked(storage, "file", data)
    assert bytes(read_checked(storage, "file", "mend it")) == data


def test_each_damage_to_bytes_is_found_and_named(run: Storage, complains: Any) -> None:
    write_checked(run, "steps/0.csv", b"0,0,1.5\n" * 9)
    whole = run.read("steps/0.csv")
    for damaged in [b"", whole[:70], whole[72:], whole + b"\n", *flips(whole, 100, seed=0)]:
        run.write("steps/0.csv", damaged)
        with complains(run.where("steps/0.csv"), "mend it"):
            read_checked(run, "steps/0.csv", "mend it")


def test_a_file_is_not_taken_for_one_of_another_name_or_run(run: Storage, complains: Any) -> None:
    for folder in (run / "1", run / "2"):
        for name in ("steps/0.csv", "steps/9.csv"):
            write_checked(folder, name, b"0,0,1.5\n")
    data = (run / "1").read("steps/0.csv")
    for other, name in ((run / "1", "steps/9.csv"), (run / "2", "steps/0.csv")):
        other.write(name, data)
        with complains(other.where(name)):
            read_checked(other, name, "mend it")


def test_a_folder_of_runs_may_be_moved(run: Storage, tmp_path: Path) -> None:
    write_checked(run / "1", "steps/0.csv", b"0,0,1.5\n")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    moved = open_storage(str(tmp_path / "elsewhere"))
    assert bytes(read_checked(moved / "1", "steps/0.csv", "mend it")) == b"0,0,1.5\n"
