"""Digests in saved JSON files, and of the files beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeov.weights.digests import (
    digest,
    read_description,
    require_sha256,
    sha256_file,
    with_digest,
    without_digest,
    write_description,
)
from tests.helpers.damage import flips

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "digest"), plain))
def test_values_come_back_from_json_equal(values: dict[str, Any]) -> None:
    text = json.dumps(with_digest(values))
    assert without_digest(json.loads(text), "here", "mend it") == values


def test_numbers_as_keys_and_tuples_are_what_json_makes_of_them() -> None:
    text = json.dumps(with_digest({"a": {10: (1, 2), 2: ()}}))
    assert without_digest(json.loads(text), "here", "mend it") == {"a": {"10": [1, 2], "2": []}}


def test_each_change_of_a_value_is_found(mistake) -> None:
    values = with_digest({"a": 1, "b": {"c": [1.5, "x"]}})
    for changed in (
        values | {"a": 2}, values | {"a": 1.0}, values | {"a": True}, values | {"d": None},
        {k: v for k, v in values.items() if k != "a"}, values | {"b": {"c": ["x", 1.5]}},
        {k: v for k, v in values.items() if k != "digest"}, [], None, {},
        values | {"digest": "0" * 64}, values | {"digest": None},
    ):  # fmt: skip
        with mistake("here: ", "mend it"):
            without_digest(changed, "here", "mend it")


def test_a_mapping_with_an_entry_of_that_name_is_refused(mistake) -> None:
    with mistake("'digest'"):
        with_digest({"digest": 1})


def test_equal_values_have_one_digest_in_any_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_a_file_of_other_bytes_is_named_with_the_file_that_says_so(tmp_path, mistake) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"12")
    sha256 = sha256_file(path)
    require_sha256(path, sha256, tmp_path / "described", "mend it")
    path.write_bytes(b"21")
    with mistake(f"{path}: ", tmp_path / "described", "mend it"):
        require_sha256(path, sha256, tmp_path / "described", "mend it")
    path.unlink()
    with mistake(f"{path}: ", "mend it"):
        require_sha256(path, sha256, tmp_path / "described", "mend it")


@pytest.fixture
def described(tmp_path):
    for name in ("a", "b/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    write_description(tmp_path / "config.json", {"format": 2}, ["b/c", "a"])
    return tmp_path / "config.json"


def test_a_described_folder_is_read_without_its_digests(described) -> None:
    assert read_description(described, "mend it") == {"format": 2}
    assert set(json.loads(described.read_text(encoding="utf-8"))) == {"format", "files", "digest"}


@pytest.mark.parametrize("name", ["a", "b/c", "config.json"])
def test_any_changed_file_of_a_folder_is_named(described, mistake, name) -> None:
    path = described.parent / name
    whole = path.read_bytes()
    for damaged in [b"", whole[: len(whole) // 2], *flips(whole, 30, seed=0)]:
        path.write_bytes(damaged)
        with mistake(path, "mend it"):
            read_description(described, "mend it")
    path.unlink()
    with mistake(path, "mend it"):
        read_description(described, "mend it")


def test_a_folder_of_a_version_without_digests_is_read_with_a_warning(described, caplog) -> None:
    described.write_text('{"format": 2}', encoding="utf-8")
    assert read_description(described, "mend it") == {"format": 2}
    assert str(described) in caplog.text


@pytest.mark.parametrize("key", ["files", "digest"])
def test_a_folder_that_lost_one_of_its_digests_is_not_of_such_a_version(
    described, mistake, key
) -> None:
    values = json.loads(described.read_text(encoding="utf-8"))
    values[key[:-1] + "x"] = values.pop(key)
    described.write_text(json.dumps(values), encoding="utf-8")
    with mistake(described, "mend it"):
        read_description(described, "mend it")
