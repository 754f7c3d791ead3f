"""Reading begins at any sample of a shard, by a checked index, and reads nothing before."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.offsets import (
    DIGEST_BYTES,
    HEADER,
    decode_starts,
    encode_starts,
    index_path,
)
from pipeline.artifacts.shard_folder import ShardFolder, index_name, object_name
from pipeline.artifacts.shards import Shard
from pipeline.config.paths import Layout
from pipeline.storage.storage import Storage
from tests.helpers.s3_server import S3Server

NUM_SAMPLES = 9


def samples(count: int = NUM_SAMPLES) -> list[dict[str, Any]]:
    """Samples of several sizes; one key is so long that its header takes three blocks."""
    keys = [f"{number:04d}" for number in range(count)]
    keys[3] += "x" * 150
    return [
        {"__key__": key, "jpg": bytes([number]) * (700 * number), "json": b"{}"}
        for number, key in enumerate(keys)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> ShardFolder:
    return ShardFolder(tmp_path)


@pytest.fixture
def shard(folder: ShardFolder) -> Shard:
    return folder.write("000000.tar", samples())


def keys(folder: ShardFolder, shard: Shard, **options: Any) -> list[tuple[int, str]]:
    return [(number, sample["__key__"]) for number, sample in folder.read(shard, **options)]


ALL = list(enumerate(sample["__key__"] for sample in samples()))


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 4, NUM_SAMPLES - 1, NUM_SAMPLES])
def test_reading_begins_at_any_sample_with_and_without_an_index(
    folder: ShardFolder, shard: Shard, start: int, indexed: bool
) -> None:
    if not indexed:
        index_path(folder.path / shard.name).unlink()
    assert keys(folder, shard, start=start) == ALL[start:]
    assert keys(folder, shard, start=start, stop=start + 2) == ALL[start : start + 2]
    even = keys(folder, shard, start=start, wanted=lambda number: number % 2 == 0)
    assert even == [pair for pair in ALL[start:] if pair[0] % 2 == 0]


def test_starts_are_those_of_the_members(folder: ShardFolder, shard: Shard) -> None:
    with tarfile.open(folder.path / shard.name) as tar:
        expected = [member.offset for member in tar if member.name.endswith(".jpg")]
    starts = folder.starts(shard)
    assert starts is not None and starts.tolist() == expected


def test_nothing_before_the_first_sample_is_read(folder: ShardFolder, shard: Shard) -> None:
    path = folder.path / shard.name
    starts = folder.starts(shard)
    assert starts is not None
    with open(path, "r+b") as file:
        file.write(b"\xff" * int(starts[5]))  # what lies before would be refused
    assert keys(folder, shard, start=5) == ALL[5:]


def edit(change: Callable[[bytearray], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        edited = bytearray(data)
        change(edited)
        return bytes(edited)

    return changed


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[:-1],
    "a flipped bit of a start": edit(lambda data: data.__setitem__(HEADER.size + 4, 1)),
    "a flipped bit of the checksum": edit(lambda data: data.__setitem__(-1, data[-1] ^ 1)),
    "of another shard": lambda _: encode_starts(list(range(0, 512 * 9, 512)), "0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_index_is_refused_in_one_line_that_names_it(
    folder: ShardFolder, shard: Shard, complains: Any, damage: str
) -> None:
    path = index_path(folder.path / shard.name)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with complains(path):
        keys(folder, shard, start=2)
    assert keys(folder, shard) == ALL  # a reader from the beginning needs none
    with complains(path):
        folder.verify(shard)


def test_an_index_of_fewer_samples_is_refused(
    folder: ShardFolder, shard: Shard, complains: Any
) -> None:
    starts = folder.starts(shard)
    assert starts is not None
    path = index_path(folder.path / shard.name)
    path.write_bytes(encode_starts(starts[:-1].tolist(), shard.sha256))
    with complains(path):
        keys(folder, shard, start=2)


@pytest.mark.parametrize(("number", "shift"), [(3, 512), (4, 512), (3, -512)])
def test_a_start_that_is_not_where_its_sample_starts_is_refused(
    folder: ShardFolder, shard: Shard, complains: Any, number: int, shift: int
) -> None:
    starts = folder.starts(shard)
    assert starts is not None
    starts[number] += shift
    path = index_path(folder.path / shard.name)
    path.write_bytes(encode_starts(starts.tolist(), shard.sha256))
    with complains(folder.path / shard.name):
        keys(folder, shard, start=3)


def test_a_shard_that_could_not_be_written_leaves_no_index(
    folder: ShardFolder, shard: Shard, complains: Any
) -> None:
    with complains("occurs twice"):
        folder.write(shard.name, samples() * 2)
    assert [path.name for path in folder.path.iterdir()] == [shard.name]
    assert keys(folder, shard, start=4) == ALL[4:]


def test_starts_beyond_two_terabytes_take_eight_bytes() -> None:
    starts = [0, 512, 512 << 32]
    data = encode_starts(starts, "ab" * 32)
    assert len(data) == HEADER.size + 3 * 8 + DIGEST_BYTES
    assert decode_starts(data, "x", "ab" * 32, 3).tolist() == starts
    assert len(encode_starts(starts[:2], "ab" * 32)) == HEADER.size + 2 * 4 + DIGEST_BYTES


def test_a_storage_holds_the_index_of_each_shard(storage: Storage, tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "out", storage.address)
    shard = folder.write("000000.tar", samples())
    assert list(folder.path.iterdir()) == []
    assert sorted(storage.names("shards")) == [f"{shard.sha256}.idx", f"{shard.sha256}.tar"]
    assert keys(folder, shard, start=6) == ALL[6:]
    storage.delete(index_name(shard))
    assert keys(folder, shard, start=6) == ALL[6:]
    folder.write("000001.tar", samples())  # equal to a shard that an older version stored
    assert storage.size(index_name(shard)) is not None
    storage.write(index_name(shard), b"KDEOV")
    with pytest.raises(Exception, match=shard.sha256):
        keys(folder, shard, start=6)


def test_a_bucket_is_asked_for_the_bytes_from_the_first_sample_on(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = [{"__key__": f"{n}", "jpg": bytes([n]) * (1 << 20)} for n in range(12)]
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)
        folder = ShardFolder(tmp_path, bucket)
        shard = folder.write("000000.tar", large)
        forwarder.carried = 0
        ((number, sample),) = folder.read(shard, start=11)
        assert (number, sample["jpg"]) == (11, large[11]["jpg"])
        assert forwarder.carried < 3 << 20  # of 12 MB


def test_uploading_takes_the_index_along(storage: Storage, built: Layout) -> None:
    folder = ShardFolder(built.images / "train", storage.address)
    for shard in folder.manifest().shards:
        folder.upload(shard)
        assert storage.size(object_name(shard)) == shard.bytes
        assert storage.size(index_name(shard)) is not None
