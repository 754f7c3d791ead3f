"""Shards in a bucket: any checkout finds them, and DVC keeps what they are and not where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkouts import Checkout
from tests.helpers.s3_server import S3Server

pytestmark = pytest.mark.slow


def tracked(checkout: Checkout) -> dict[str, bytes]:
    """Files of shards that DVC tracks, without those that a local run keeps beside manifests."""
    return {
        str(path.relative_to(checkout.path)): path.read_bytes()
        for folder in ("out/images", "out/embeddings")
        for path in (checkout.path / folder).rglob("*.json")
        if path.name in ("manifest.json", "dataset.json")
    }


def written(server: S3Server, bucket: str) -> dict[str, Any]:
    """Time of the last write of each object."""
    listed = server.client().list_objects_v2(Bucket=bucket.removeprefix("s3://"))
    return {entry["Key"]: entry["LastModified"] for entry in listed["Contents"]}


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[Checkout, str], Checkout]:
    """Makes clones of a checkout, with an empty DVC cache and a folder as their remote."""

    def make(checkout: Checkout, name: str) -> Checkout:
        checkout.run("git", "clone", "-q", str(checkout.path), str(tmp_path / name))
        cloned = Checkout(tmp_path / name)
        cloned.run("dvc", "remote", "add", "-d", "--local", "folder", str(tmp_path / "remote"))
        return cloned

    return make


def test_moving_shards_to_a_storage_runs_nothing_again(
    reproduced: Checkout, tmp_path: Path
) -> None:
    params = reproduced.path / "params.yaml"
    before = params.read_text(encoding="utf-8")
    try:
        reproduced.change({"data": {"storage": str(tmp_path / "storage")}})
        assert "up to date" in reproduced.run("dvc", "status").stdout
    finally:
        params.write_text(before, encoding="utf-8")


def test_every_checkout_finds_what_one_has_put_in_a_bucket(
    reproduced: Checkout,
    new_checkout: Callable[[], Checkout],
    clone: Callable[[Checkout, str], Checkout],
    bucket: str,
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    first = new_checkout()
    first.change({"data": {"storage": bucket}, "distill": {"epochs": 1}})
    first.run("dvc", "repro", "distill")
    assert list((first.path / "out").rglob("*.tar")) == []
    assert tracked(first) == tracked(reproduced)
    assert (first.path / "out" / "student" / "student.safetensors").is_file()
    first.run("git", "add", "-A")
    first.run("git", "commit", "-qm", "results")
    first.run("dvc", "remote", "add", "-d", "--local", "folder", str(tmp_path / "remote"))
    first.run("dvc", "push")

    before = written(s3_server, bucket)
    second = clone(first, "second")
    second.run("dvc", "pull", "distill", "embed", "prepare", "teacher")
    assert "Running" not in second.run("dvc", "repro", "distill").stdout

    third = clone(first, "third")  # its DVC remote is lost
    (tmp_path / "remote").rename(tmp_path / "lost")
    embedding = third.run("dvc", "repro", "embed")
    assert "Running stage 'embed'" in embedding.stdout
    assert "3 of 3" in embedding.stderr
    assert tracked(third) == tracked(first)
    after = written(s3_server, bucket)
    # of both kinds: six shards with an index and a record each, and a chunk of each manifest
    assert after == before and len(after) == 2 * (3 * 6 + 3)
