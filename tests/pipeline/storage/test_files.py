"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.files import (
    digest,
    read_json,
    remove_partial,
    sha256_file,
    write_json,
    write_text,
    writing,
    writing_folder,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    with writing(tmp_path / "deep" / "a.bin") as file:
        file.write(b"half")
        assert not (tmp_path / "deep" / "a.bin").exists()
        file.write(b" and half")
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"half and half"
    assert names(tmp_path / "deep") == {"a.bin"}


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("mistake", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, before: bytes | None, mistake: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(mistake), writing(path) as file:
        file.write(b"new")
        raise mistake
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ({"a.bin"} if before else set())


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for number in (1, 2):
        with writing_folder(tmp_path / "out") as folder:
            (folder / f"{number}").touch()
    assert names(tmp_path / "out") == {"2"}
    assert names(tmp_path) == {"out"}


def test_a_block_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "old", "old")
    with pytest.raises(RuntimeError), writing_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert names(tmp_path / "out") == {"old"}
    assert names(tmp_path) == {"out"}


def test_what_a_killed_process_left_of_a_folder_goes_when_the_folder_is_made(
    tmp_path: Path,
) -> None:
    write_text(tmp_path / "out.99999999.partial" / "000000.tar", "half")
    with writing_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert names(tmp_path) == {"out"}


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with complains(tmp_path / "a.txt", "No space left on device", "free space"):
        write_text(tmp_path / "a.txt", "much")
    assert names(tmp_path) == set()


def test_a_disk_that_fills_up_amid_a_shard_leaves_nothing(tmp_path: Path, run_python: Any) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from kdeov.errors import KdeovError
from pipeline.artifacts.shards import write_shard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
samples = ({"__key__": f"{n}", "jpg": bytes(30_000)} for n in range(50))
try:
    write_shard(Path(sys.argv[1]) / "000000.tar", samples)
except KdeovError as error:
    print(error)
"""
    result = run_python("-c", script, str(tmp_path))
    assert result.stdout.startswith(f"{tmp_path / '000000.tar'}: cannot be written (File too large")
    assert result.stdout.count("\n") == 1
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, complains: Any) -> None:
    (tmp_path / "file").touch()
    with complains(tmp_path / "file"):
        write_text(tmp_path / "file" / "a.txt", "much")


def test_half_written_files_and_folders_can_be_swept_away(tmp_path: Path) -> None:
    write_text(tmp_path / "a.tar.12.partial", "half")
    write_text(tmp_path / "b.12.partial" / "half", "half")
    write_text(tmp_path / "c.tar", "whole")
    remove_partial(tmp_path)
    assert names(tmp_path) == {"c.tar"}


@settings(max_examples=40, deadline=None)
@given(value=st.dictionaries(st.text(), JSON, max_size=4))
def test_equal_values_are_equal_bytes_and_come_back(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one.json", Path(folder) / "two.json"
        write_json(one, value)
        write_json(two, dict(reversed(value.items())))
        assert one.read_bytes() == two.read_bytes()
        assert read_json(one) == value


def test_json_reads_well_in_a_diff(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1], "a": {"z": 1, "y": None}})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "a": {\n    "y": null,\n    "z": 1\n  },\n  "b": [\n    1\n  ]\n}\n'
    )


def test_no_json_file_holds_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        (None, "run `dvc repro embed`"),
        ("", "run `dvc repro -f embed`"),
        ('{"a": ', "run `dvc repro -f embed`"),
    ],
)
def test_a_missing_or_damaged_json_file_names_the_stage_that_makes_it(
    tmp_path: Path, complains: Any, text: str | None, cure: str
) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with complains(path, cure):
        read_json(path, "embed")


def test_a_damaged_file_of_no_stage_is_to_be_deleted(tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "cluster.json"
    path.write_text("{", encoding="utf-8")
    with complains(path, "delete it") as caught:
        read_json(path)
    assert "dvc repro" not in str(caught)


def test_digests_follow_contents_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "same")
    write_text(tmp_path / "b", "same")
    write_text(tmp_path / "c", "other")
    a, b, c = (sha256_file(tmp_path / name) for name in "abc")
    assert a == b != c
    assert digest({"x": 1, "y": [2]}) == digest(json.loads('{"y": [2], "x": 1}'))
    assert digest({"x": 1}) != digest({"x": 2})
