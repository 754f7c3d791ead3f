"""A bucket is seen as folders with files, as long as it stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import ConfigError, DataError, StorageError
from pipeline.prepare.images import UnusableImage
from pipeline.prepare.readers.remote.address_file import address_of
from pipeline.prepare.readers.remote.bucket_folder import listed_bucket, read_object
from pipeline.storage.bucket import BucketStorage
from tests.helpers.s3_server import S3Server

NAMES = [
    "a.jpg",
    "train/cat/1.jpg",
    "train/cat/.hidden",
    "train/cat/deep/er/2.jpg",
    "train/dog/3.jpg",
]


@pytest.fixture
def storage(bucket: str, s3_server: S3Server) -> BucketStorage:
    """Objects at several depths, with one that stands for a folder, beside another data set."""
    client, name = s3_server.client(), bucket.removeprefix("s3://")
    for key in (*NAMES, "train/", "train/cat/"):
        client.put_object(Bucket=name, Key=f"data/{key}", Body=key.encode())
    client.put_object(Bucket=name, Key="data-2/x.jpg", Body=b"x")
    return BucketStorage(f"{bucket}/data", patience_s=1)


@pytest.mark.slow
def test_all_objects_below_a_prefix_are_listed_by_name_with_their_versions(
    storage: BucketStorage,
) -> None:
    found = storage.objects()
    assert [entry.name for entry in found] == sorted(NAMES)
    assert [entry.size for entry in found] == [len(name) for name in sorted(NAMES)]
    assert len({entry.version for entry in found}) == len(NAMES)
    assert storage.stored("train/dog/3.jpg") == found[-1]
    assert storage.stored("train/dog/4.jpg") is None and storage.stored("train/dog") is None


def test_a_bucket_is_walked_as_folders(storage: BucketStorage) -> None:
    with listed_bucket(storage) as top:
        assert sorted(top.folders) == ["train"] and sorted(top.files) == ["a.jpg"]
        cat = top / "train" / "cat"
        assert str(cat) == f"{storage.address}/train/cat" and cat.name == "cat"
        assert [place for place, _ in cat.walk()] == ["train/cat/1.jpg", "train/cat/deep/er/2.jpg"]
        assert (top / "absent" / "deeper").folders == {} and str(top / ".") == storage.address
        assert cat.read("1.jpg") == b"train/cat/1.jpg"


@pytest.mark.parametrize("change", ["new", "other bytes", "gone"])
def test_a_bucket_that_changes_while_it_is_listed_is_refused_by_name(
    storage: BucketStorage, complains: Any, change: str
) -> None:
    name = "train/cat/0.jpg" if change == "new" else "train/cat/1.jpg"
    with complains(storage.where(name)), listed_bucket(storage):
        if change == "gone":
            storage.delete(name)
        else:
            storage.write(name, b"other")


def test_an_error_of_the_source_is_not_hidden_by_a_second_listing(storage: BucketStorage) -> None:
    with pytest.raises(DataError, match="of the source"), listed_bucket(storage):
        storage.delete("a.jpg")
        raise DataError("of the source")


@pytest.mark.slow
def test_a_bucket_that_cannot_be_reached_is_named(
    storage: BucketStorage, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)
        assert storage.objects()
        with forwarder.away():
            with pytest.raises(StorageError, match=storage.address):
                storage.objects()
            with pytest.raises(StorageError, match=r"a\.jpg"):
                read_object(storage, "a.jpg")


def test_an_object_that_vanished_is_unusable(storage: BucketStorage) -> None:
    with pytest.raises(UnusableImage, match="no such object"):
        read_object(storage, "b.jpg")


def test_a_file_may_hold_the_address(tmp_path: Path) -> None:
    path = tmp_path / "cc3m.address"
    path.write_text("# CC3M, as of May\n\ns3://bucket/cc3m/\n", encoding="utf-8")
    assert address_of(path) == "s3://bucket/cc3m"
    path.write_bytes(b"\xef\xbb\xbfs3://bucket/cc3m\r\n")  # as Notepad writes it
    assert address_of(path) == "s3://bucket/cc3m"
    assert address_of("s3://bucket/x") == "s3://bucket/x"
    assert address_of(tmp_path / "folder") is None


@pytest.mark.parametrize(
    "content", [b"", b"/a/folder", b"s3://a\ns3://b", b"ftp://a/b", b"s3://key:secret@a/b", b"\xff"]
)
def test_a_file_without_one_address_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.address"
    path.write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=str(path)):
        address_of(path)
    path.unlink()
    with pytest.raises(DataError, match=str(path)):
        address_of(path)
