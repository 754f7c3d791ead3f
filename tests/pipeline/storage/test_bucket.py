"""A bucket: what requests cost, and how faults of the network are met."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from kdeov.errors import KdeovError
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.storage.remote_file import BLOCK
from pipeline.storage.storage import Storage, open_storage
from pipeline.training.checkpoints import CheckpointStore
from tests.helpers.s3_server import SECRET, S3Server, s3_process
from tests.helpers.waiting import wait_for


def test_a_read_costs_blocks_not_the_whole_object(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(bucket).write("x", bytes(32 << 20))
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)
        with open_storage(bucket).open("x") as file:
            file.read(10)
            file.seek(20 << 20)
            file.read(10)
        # bytes are counted when they have been passed on, which may be after they were read
        wait_for(lambda: forwarder.carried > 2 * BLOCK, seconds=30)
        assert forwarder.carried < 2.5 * BLOCK


def test_a_large_file_is_uploaded_in_parts(bucket: str, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        for byte in range(40):
            file.write(bytes([byte]) * (1 << 20))
    open_storage(bucket).upload(tmp_path / "large", "large")
    with open_storage(bucket).open("large") as file:
        for byte in range(40):
            assert file.read(1 << 20) == bytes([byte]) * (1 << 20)
        assert file.read(1) == b""


@pytest.mark.slow
def test_more_names_than_a_server_tells_at_once(bucket: str, s3_server: S3Server) -> None:
    client, name = s3_server.client(), bucket.removeprefix("s3://")
    names = [f"{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client.put_object(Bucket=name, Key=f"x/{n}", Body=b"."), names))
    assert open_storage(bucket).names("x") == names


class Reads(IterableDataset):
    """What a loader process reads of a storage that its parent has used."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __iter__(self) -> Any:
        yield self.storage.read("x").decode(), os.getpid()


def test_a_forked_process_reads_too(bucket: str) -> None:
    storage = open_storage(bucket)
    storage.write("x", b"same")
    loader = DataLoader(
        Reads(storage), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    found = list(loader)
    assert [text for text, _ in found] == ["same", "same"]
    assert len({os.getpid(), *(pid for _, pid in found)}) == 3
    assert storage.read("x") == b"same"


def test_a_missing_bucket_is_named_and_not_taken_for_a_missing_file(
    bucket: str, complains: Callable[..., Any]
) -> None:
    absent = open_storage(f"{bucket}-absent/x")
    for action in (absent.read, absent.size, absent.open, absent.names, absent.delete):
        with complains(absent.address, "bucket does not exist", "make the bucket"):
            action("y")
    with complains(absent.address, "bucket does not exist", "make the bucket"):
        absent.require_writable()


@pytest.mark.slow
def test_a_bucket_that_refuses_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, complains: Callable[..., Any]
) -> None:
    with s3_process(INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:  # the one that makes the bucket
        for name, value in strict.environment.items():
            monkeypatch.setenv(name, value)
        storage, start = open_storage(strict.bucket()), time.monotonic()
        with complains(storage.address, "cannot be written", "AWS_ACCESS_KEY_ID"):
            storage.require_writable()
        assert time.monotonic() - start < 10


def test_an_error_shows_no_secret(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(KdeovError) as caught:
        open_storage(bucket, patience_s=1.0).read("x")
    assert "AWS_ENDPOINT_URL" in str(caught.value)
    assert "trying again" in log.text
    assert SECRET not in str(caught.value) + log.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", ("cannot be read", "AWS_ACCESS_KEY_ID")),
        ("import sys; sys.modules['s3fs'] = None", ("needs s3fs", "pip install kdeov[s3]")),
    ],
    ids=["no credentials", "no s3fs"],
)
def test_what_is_missing_on_this_machine_is_named(
    bucket: str, s3_server: S3Server, tmp_path: Path, before: str, words: tuple[str, ...]
) -> None:
    script = f"""
    {before}
    from kdeov.errors import KdeovError
    from pipeline.storage.storage import Storage, open_storage
    try:
        open_storage({bucket!r}).read("x")
    except KdeovError as error:
        print(error)
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=kept | {
            "AWS_ENDPOINT_URL": s3_server.endpoint, "HOME": str(tmp_path),
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        capture_output=True, text=True, encoding="utf-8")  # fmt: skip
    assert done.stdout.count("\n") == 1, done.stderr
    line = done.stdout
    assert all(word in line for word in (bucket, *words)), line


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_shards_stream_and_checkpoints_are_written_while_a_server_is_away_for_ten_seconds(
    how: str, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = [{"__key__": f"{n:06d}", "jpg": os.urandom(1 << 20)} for n in range(20)]
    shard = ShardFolder(tmp_path / "writer", bucket).write("000000.tar", samples)
    assert shard.bytes > 4 * BLOCK
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)
        folder, gone = ShardFolder(tmp_path / "reader", bucket), threading.Event()
        checkpoints = CheckpointStore(open_storage(bucket) / "run")

        def stream() -> list[bytes]:
            reading = folder.read(shard)
            found = [next(reading)[1]["jpg"]]
            gone.wait(60)
            return found + [sample["jpg"] for _, sample in reading]

        def save() -> None:
            gone.wait(60)
            checkpoints.save(1, {"weights": torch.ones(1_000_000)})

        with ThreadPoolExecutor(2) as pool:
            streaming, saving = pool.submit(stream), pool.submit(save)
            time.sleep(1)
            with forwarder.away() if how == "refuses" else s3_server.silent():
                gone.set()
                time.sleep(10)
                assert not streaming.done() and not saving.done()
            assert streaming.result() == [sample["jpg"] for sample in samples]
            saving.result()
        latest = checkpoints.latest()
    assert latest is not None and torch.equal(latest["weights"], torch.ones(1_000_000))


def test_a_swap_whose_answer_was_lost_is_known_to_have_succeeded(bucket: str) -> None:
    storage = open_storage(bucket)
    storage.write("x", b"mine")  # by a first try
    assert storage.swap("x", None, b"mine")
    assert storage.swap("x", b"mine", b"mine too")
