"""A shard gives back what was put in, and is byte-identical for identical samples."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.shards import read_shard, write_shard
from pipeline.config.paths import Layout

KEYS = st.text(
    st.sampled_from("abcXYZ019_-"),
    min_size=1,
    max_size=120,
)


SAMPLES = st.lists(
    st.builds(
        lambda key, jpg, text: {"__key__": key, "jpg": jpg, "json": text},
        KEYS, st.binary(max_size=2000), st.binary(max_size=40),
    ),
    max_size=6, unique_by=lambda sample: sample["__key__"],
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(samples=SAMPLES)
def test_a_shard_gives_back_what_was_put_in_and_is_the_same_every_time(
    samples: list[dict[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        one, two = Path(name) / "000000.tar", Path(name) / "again" / "000000.tar"
        shard = write_shard(one, samples)
        assert write_shard(two, (dict(reversed(s.items())) for s in samples)) == shard
        assert one.read_bytes() == two.read_bytes()
        assert shard.samples == len(samples) and shard.bytes == one.stat().st_size
        found = [
            (number, {k: v for k, v in sample.items() if k != "__url__"})
            for number, sample in read_shard(one, shard)
        ]
    assert found == list(enumerate(samples))


def packed_by_tarfile(samples: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for sample in samples:
            for extension in sorted(sample.keys() - {"__key__"}):
                info = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                info.size = len(sample[extension])
                tar.addfile(info, io.BytesIO(sample[extension]))
    return file.getvalue()


@settings(max_examples=50, deadline=None)
@given(samples=SAMPLES)
def test_a_shard_is_what_tarfile_would_write(samples: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000.tar"
        shard = write_shard(path, samples)
        data = path.read_bytes()
    assert data == packed_by_tarfile(samples)
    assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@settings(max_examples=20, deadline=None)
@given(wanted=st.sets(st.integers(0, 9)))
def test_only_the_wanted_samples_are_read(built: Layout, wanted: set[int]) -> None:
    path = built.images / "train" / "000000.tar"
    found = list(read_shard(path, wanted=wanted.__contains__))
    assert [number for number, _ in found] == sorted(wanted)
    assert all(sample["__key__"] == f"train-{number:07d}" for number, sample in found)


@pytest.mark.parametrize("key", ["a.b", "../a", "a/b", "ä", "a b", "", "a\n"])
def test_a_key_that_is_no_plain_name_is_refused(tmp_path: Path, complains: Any, key: str) -> None:
    with complains(tmp_path / "0.tar", repr(key)):
        write_shard(tmp_path / "0.tar", [{"__key__": key, "jpg": b""}])
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path / "0.tar", "'a' occurs twice"):
        write_shard(tmp_path / "0.tar", [{"__key__": "a", "jpg": b""}] * 2)
    assert list(tmp_path.iterdir()) == []
