"""A data set in a bucket gives the shards that its copy in a folder gives."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import ConfigError, DataError, StorageError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.identity import values_digest
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected
from pipeline.prepare.readers.tars.index_cache import kept_index
from pipeline.prepare.readers.tars.sample_index import Ignored, Indexed
from pipeline.prepare.sources import open_source
from pipeline.storage.bucket import BucketStorage
from pipeline.storage.storage import open_storage
from tests.helpers.bucket_data import MAKERS, put_folder
from tests.helpers.parquets import export, images
from tests.helpers.s3_server import S3Server
from tests.helpers.sampling import made
from tests.helpers.tars import JPEG, pack

MakeParams = Callable[..., Params]


@pytest.fixture
def prepare_params(make_params: MakeParams) -> Callable[..., PrepareParams]:
    def make(source: str, path: object, options: dict[str, Any]) -> PrepareParams:
        values = {"source": source, "path": str(path), "max_rejected": 0.5, source: options}
        return make_params(prepare={**values, "samples_per_shard": 4}).prepare

    return make


@pytest.fixture(params=MAKERS)
def both(
    request: pytest.FixtureRequest, prepare_params: Any, tmp_path: Path, bucket: str
) -> tuple[PrepareParams, PrepareParams]:
    """Params of a data set in a folder, and of its copy in a bucket."""
    folder = tmp_path / "data"
    options = MAKERS[request.param](folder)
    put_folder(folder, f"{bucket}/some/prefix")
    here = prepare_params(request.param, folder, options)
    return here, prepare_params(request.param, f"{bucket}/some/prefix", options)


def test_shards_are_those_of_the_folder(
    both: tuple[PrepareParams, PrepareParams], tmp_path: Path
) -> None:
    here, there = both
    outs = [tmp_path / "here", tmp_path / "there"]
    write_image_shards(here, outs[0])
    write_image_shards(there, outs[1])
    for split in SPLITS:
        ours, theirs = (Manifest.read(out / split) for out in outs)
        assert ours.samples > 0 and ours == theirs
    assert len({(out / "dataset.json").read_bytes() for out in outs}) == 1


def test_inputs_and_their_reader_travel_to_workers(
    both: tuple[PrepareParams, PrepareParams],
) -> None:
    source = open_source(both[1])
    for item in source.inputs["train"]:
        data = pickle.dumps(item)
        assert len(data) < 1000 and pickle.loads(data) == item
    make = pickle.loads(pickle.dumps(source.make))
    first = next(iter(source.inputs["train"]))
    assert make(first) == source.make(first)


def test_how_long_a_network_is_tried_makes_no_shard_again(bucket: str) -> None:
    patient, hasty = (values_digest([BucketStorage(bucket, seconds)]) for seconds in (60.0, 1.0))
    assert patient == hasty != values_digest([BucketStorage(f"{bucket}/other")])


def test_what_vanishes_or_changes_after_the_listing_is_rejected(
    both: tuple[PrepareParams, PrepareParams],
) -> None:
    there = both[1]
    source, storage = open_source(there), open_storage(str(there.path))
    objects = storage.objects()  # type: ignore[attr-defined]
    gone = [entry.name for entry in objects if entry.name.endswith((".png", ".tar", ".parquet"))]
    for name in gone[:2]:
        storage.delete(name)
    lost = {name: s for name, s in made(source).items() if name.startswith(tuple(gone[:2]))}
    assert lost and all(isinstance(sample, Rejected) for sample in lost.values())
    kept = {name: s for name, s in made(source).items() if name not in lost}
    assert any(not isinstance(sample, Rejected) for sample in kept.values())


@pytest.mark.parametrize("source", ["shards", "parquet"])
def test_a_file_that_was_replaced_is_not_read_by_old_places(
    prepare_params: Any, tmp_path: Path, bucket: str, source: str
) -> None:
    options = MAKERS[source](tmp_path)
    put_folder(tmp_path, bucket)
    listed = open_source(prepare_params(source, bucket, options))
    storage = open_storage(bucket)
    first = next(iter(listed.inputs["train"]))
    name = getattr(first, "tar", None) or first.file
    storage.write(name, storage.read(name) + bytes(512))
    found = {n: s for n, s in made(listed).items() if n.startswith(name)}
    assert found
    assert all(isinstance(s, Rejected) and "changed" in s.reason for s in found.values())


@pytest.mark.parametrize("source", ["shards", "parquet"])
def test_a_file_that_becomes_shorter_while_it_is_read_rejects_the_rest(
    prepare_params: Any, tmp_path: Path, bucket: str, source: str
) -> None:
    columns = {"image": images(4, JPEG + os.urandom(4 << 20)), "label": ["cat"] * 4}
    export(tmp_path / "parquet" / "0.parquet", columns, group=1)
    padded = [(f"{n}.{kind}", data) for n in range(4) for kind, data in
              (("jpg", JPEG + bytes(4 << 20)), ("txt", b"a dog"))]  # fmt: skip
    pack(tmp_path / "shards" / "0.tar", *padded)
    options = MAKERS[source](tmp_path / "options") | {"val": 0.0, "test": 0.0}
    put_folder(tmp_path / source, bucket)
    listed = open_source(prepare_params(source, bucket, options))
    first, *_, last = listed.inputs["train"]
    assert not isinstance(listed.make(first), Rejected)
    open_storage(bucket).write("0.parquet" if source == "parquet" else "0.tar", b"x")
    rest = listed.make(last)
    assert isinstance(rest, Rejected) and rest.unread and "vanished" in rest.reason


@pytest.mark.parametrize(
    ("source", "module"),
    [("image_folder", "sources.image_folder"), ("shards", "readers.tars.tar_samples")],
)
def test_what_is_too_large_for_an_image_is_not_fetched(
    prepare_params: Any,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    module: str,
) -> None:
    options = MAKERS[source](tmp_path)
    put_folder(tmp_path, bucket)
    monkeypatch.setattr(import_module(f"pipeline.prepare.{module}"), "MAX_BYTES", 5)
    listed = open_source(prepare_params(source, bucket, options))
    monkeypatch.setattr(BucketStorage, "_request", lambda *_: pytest.fail("fetched"))
    rows = [row for part in listed.inputs.values() for row in part]
    samples = [row if isinstance(row, Rejected) else listed.make(row) for row in rows]
    assert samples and all(isinstance(sample, Rejected) for sample in samples)


def versions(params: PrepareParams) -> dict[str, str]:
    """The version of each input, by what names it."""
    items = [item for rows in open_source(params).inputs.values() for item in rows]
    items = [getattr(item, "file", item) for item in items if hasattr(item, "key")]
    return {item.name: item.version for item in items}


def test_versions_of_images_follow_their_bytes(
    prepare_params: Any, tmp_path: Path, bucket: str
) -> None:
    options = MAKERS["image_folder"](tmp_path)
    put_folder(tmp_path, bucket)
    params = prepare_params("image_folder", bucket, options)
    before = versions(params)
    assert len(before) == 19 and all(before.values())
    put_folder(tmp_path, bucket)  # the same bytes, later
    assert versions(params) == before
    name = "train/cat/3.png"
    open_storage(bucket).write(name, b"other bytes")
    after = versions(params)
    assert after.pop(name) != before.pop(name) and after == before


def test_a_prefix_without_objects_is_refused(prepare_params: Any, bucket: str) -> None:
    options = {"val": 0.1, "test": 0.1}
    with pytest.raises(DataError, match=f"{bucket}/nothing"):
        open_source(prepare_params("shards", f"{bucket}/nothing", options))
    with pytest.raises(StorageError, match=f"{bucket}-absent"):
        open_source(prepare_params("shards", f"{bucket}-absent", options))


def test_a_source_of_local_files_refuses_a_bucket(make_params: MakeParams, bucket: str) -> None:
    params = make_params(prepare={"source": "captions_csv", "path": bucket}).prepare
    with pytest.raises(ConfigError, match="captions_csv"):
        open_source(params)


def test_a_damaged_tar_is_named_by_its_address(
    prepare_params: Any, bucket: str, complains: Any, tmp_path: Path
) -> None:
    options = MAKERS["shards"](tmp_path)
    put_folder(tmp_path, bucket)
    open_storage(bucket).write("00001.tar", (tmp_path / "00001.tar").read_bytes()[:3000])
    with complains(f"{bucket}/00001.tar"):
        open_source(prepare_params("shards", bucket, options))


def test_class_names_of_a_bucket_may_come_from_a_file(
    prepare_params: Any, bucket: str, complains: Any, tmp_path: Path
) -> None:
    options = MAKERS["image_folder"](tmp_path) | {"class_names": "names.json"}
    put_folder(tmp_path, bucket)
    params = prepare_params("image_folder", bucket, options)
    with complains(f"{bucket}/names.json"):
        open_source(params)
    storage = open_storage(bucket)
    storage.write("names.json", b'{"cat": "tiger", "polar bear": "lion"}')
    assert open_source(params).classes == ["lion", "tiger"]
    for content in (b'{"cat": "tiger"}', b"{", b"[]", b"\xff"):
        storage.write("names.json", content)
        with complains(f"{bucket}/names.json"):
            open_source(params)


def test_tars_of_a_bucket_are_read_once_for_their_index(
    prepare_params: Any,
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: Any,
) -> None:
    folder, cache = tmp_path / "data", open_storage(str(tmp_path / "cache"))
    options = MAKERS["shards"](folder)
    large = [("a.jpg", bytes(3 << 20)), ("a.txt", b"a"), ("a.other", b"")]
    pack(folder / "00003.tar", *large)
    put_folder(folder, bucket)
    params = prepare_params("shards", bucket, options)
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)

        def listed() -> tuple[dict[str, list[Any]], int]:
            forwarder.carried = 0
            source = open_source(params, cache)
            return {split: list(rows) for split, rows in source.inputs.items()}, forwarder.carried

        (first, much), (second, little) = listed(), listed()
        assert first == second and little < 500_000 < 2 << 20 < much
        damaged = cache.names("tar_indexes")
        for name in damaged:
            cache.write(f"tar_indexes/{name}", b"damaged")
        assert listed()[0] == first and len(damaged) == 4
        log.clear()
        again, little = listed()
        assert again == first and little < 500_000 and ".other" in log.text
        pack(folder / "00003.tar", *large[:2], ("b.jpg", b"x"), ("b.txt", b"b"))
        put_folder(folder, bucket)
        changed, _ = listed()
    assert sum(map(len, changed.values())) == sum(map(len, first.values())) + 1


def test_the_index_of_a_tar_that_was_replaced_meanwhile_is_not_kept(tmp_path: Path) -> None:
    cache = open_storage(str(tmp_path))
    other, right = ([], Ignored()), ([Indexed("a", [0, 1, -1], None)], Ignored())
    place = cache, "s3://b/a.tar", "etag"
    assert kept_index(*place, lambda: other, lambda: False) == other
    assert cache.names("tar_indexes") == []
    assert kept_index(*place, lambda: right, lambda: True) == right
    assert kept_index(*place, lambda: other, lambda: True) == right


def test_a_sample_that_lies_apart_is_read_alone(
    prepare_params: Any,
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    padding = [(f"{n}.{kind}", data) for n in range(8) for kind, data in
               (("jpg", JPEG + bytes(2 << 20)), ("txt", b"a dog"))]  # fmt: skip
    pack(tmp_path / "0.tar", *padding)
    put_folder(tmp_path, bucket)
    source = open_source(prepare_params("shards", bucket, {"val": 0.0, "test": 0.0}))
    members = list(source.inputs["train"])
    with s3_server.forwarded() as forwarder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forwarder.endpoint)
        for member in (members[1], members[4], members[7]):
            assert not isinstance(source.make(member), Rejected)
        assert 5 << 20 < forwarder.carried < 7 << 20
