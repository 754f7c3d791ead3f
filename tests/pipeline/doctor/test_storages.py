"""The doctor looks for shards where the run will read them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params, load_params
from pipeline.config.paths import Layout
from pipeline.doctor.examine import preflight
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


@pytest.mark.slow
def test_names_of_classes_that_the_evaluation_would_refuse_are_refused_before_training(
    here: Layout, run_python: Callable[..., subprocess.CompletedProcess[str]],
    complains: Any,
) -> None:  # fmt: skip
    change(here, zero_shot={"class_names": {"no such class": "cat"}})
    done = run_python("-m", "stages.distill", cwd=here.root)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("distill: zero_shot.class_names: 'no such")
    assert not (here.root / "work").exists()
    with complains("nothing was started", "zero_shot.class_names", "'no such class'"):
        preflight(load_params(here.params), here)
    preflight(load_params(here.params), here, "embed")


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
