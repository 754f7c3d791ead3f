"""The doctor looks for shards where the run will read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.storages import sources
from pipeline.storage.storage import open_storage
from tests.helpers.doctor import change, doctor
from tests.helpers.s3_server import SECRET, S3Server

pytestmark = pytest.mark.usefixtures("loggers")


def test_shards_in_a_bucket_are_found_there_and_one_that_is_not_is_named(
    in_bucket: Layout, bucket: str, s3_server: S3Server
) -> None:
    before = s3_server.objects(bucket)
    assert doctor() == (0, [])
    assert s3_server.objects(bucket) == before
    shard = Manifest.read(in_bucket.images / "train").shards[1]
    open_storage(f"{bucket}/data").write(f"shards/{shard.sha256}.tar", b"cut")
    status, lines = doctor()
    assert status == 1 and any("shards" in x and "is damaged" in x for x in lines), lines
    open_storage(f"{bucket}/data").delete(f"shards/{shard.sha256}.tar")
    status, lines = doctor()
    assert status == 1 and any("1 of 3 shards" in x and "000001.tar" in x for x in lines), lines


def test_shards_on_this_machine_alone_are_no_error(here: Layout, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    change(here, data={"storage": str(tmp_path / "storage")})
    assert doctor() == (0, [])


def test_an_unreachable_bucket_is_reported_in_time_and_without_secrets(
    in_bucket: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.doctor.node.TIMEOUT_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    status, (line,) = doctor()
    assert status == 1 and line.startswith("error   data.storage")
    assert "AWS_ENDPOINT_URL" in line and SECRET not in line


def test_a_bucket_that_dvc_cannot_watch_is_named(
    make_params: Callable[..., Params], tmp_path: Path
) -> None:
    address = "s3://bucket/prefix"
    (check,) = sources(make_params(prepare={"path": address}), Layout(tmp_path))
    assert (check.name, check.verdict) == ("prepare.path", "error")
    assert address in check.finding and "dvc-s3" in check.fix
    file = tmp_path / "x.address"
    file.write_text(address, encoding="utf-8")
    assert sources(make_params(prepare={"path": str(file)}), Layout(tmp_path)) == []
