"""Shards in a storage: by their content, read as if they lay beside their manifests."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.shard_folder import ShardFolder, object_name
from pipeline.artifacts.shards import Manifest, Shard
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.cluster.upload import upload_missing
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.data.verify import verify_cache
from pipeline.embedding.embed import embed
from pipeline.embedding.shard_records import record_name
from pipeline.prepare.prepare import write_image_shards
from pipeline.storage.files import sha256_file
from pipeline.storage.storage import Storage
from pipeline.teachers.load import load_teacher
from tests.helpers.s3_server import S3Server


def texts(folder: Path) -> dict[str, bytes]:
    """All files of a folder that are not shards or their records."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name in ("manifest.json", "dataset.json")
    }


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> list[Shard]:
    return [shard for s in SPLITS for shard in Manifest.read(folder / s, "prepare").shards]


@pytest.fixture
def stored(built: Layout, storage: Storage, tmp_path: Path) -> tuple[Layout, Storage]:
    """A checkout that has manifests alone; what they list is in the storage."""
    layout = Layout(tmp_path / "stored")
    shutil.copytree(built.root, layout.root, symlinks=True)
    for side in (layout.images, layout.embeddings):
        for split in SPLITS:
            upload_missing(ShardFolder(side, storage.address) / split)
        for path in (*side.rglob("*.tar"), *side.rglob("0*.json")):
            path.unlink()
    return layout, storage


@pytest.fixture
def stored_params(stored: tuple[Layout, Storage], make_params: Callable[..., Params]) -> Params:
    return make_params(data={"storage": stored[1].address})


def paired(params: Params, layout: Layout, split: str = "train") -> list[PairedSample]:
    return list(open_cache(params, layout, split))


def damage(storage: Storage, shard: Shard, edit: Callable[[bytes], bytes]) -> None:
    storage.write(object_name(shard), edit(storage.read(object_name(shard))))


def cut(data: bytes) -> bytes:
    return data[:-20_000]


def flip(data: bytes) -> bytes:
    place = data.index(b"\xff\xd8\xff") + 40 if b"\xff\xd8\xff" in data else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("processes", [1, 2])
def test_prepare_leaves_manifests_and_they_are_those_of_local_shards(
    built: Layout,
    params: Params,
    storage: Storage,
    run_python: Any,
    tmp_path: Path,
    processes: int,
) -> None:
    out, values = tmp_path / "images", tmp_path / "params.json"
    values.write_text(params.prepare.model_dump_json())
    script = f"""
from pathlib import Path
from pipeline.config.params import PrepareParams
from pipeline.prepare.prepare import write_image_shards
params = PrepareParams.model_validate_json(Path({str(values)!r}).read_text())
write_image_shards(params, Path({str(out)!r}), {processes}, {storage.address!r})
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert texts(out) == texts(built.images)
    assert everything(out) == set(texts(out))
    for shard, split in ((s, p) for p in SPLITS for s in Manifest.read(out / p, "prepare").shards):
        data = storage.read(f"shards/{shard.sha256}.tar")
        assert data == (built.images / split / shard.name).read_bytes()
    assert storage.names() == ["shards"]


def test_what_the_storage_has_is_not_uploaded_again(
    params: Params, bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    def written() -> dict[str, Any]:
        listed = s3_server.client().list_objects_v2(Bucket=bucket.removeprefix("s3://"))
        return {entry["Key"]: entry["LastModified"] for entry in listed["Contents"]}

    write_image_shards(params.prepare, tmp_path / "one", 1, bucket)
    before = written()
    time.sleep(1.1)  # the server tells seconds
    write_image_shards(params.prepare, tmp_path / "two", 1, bucket)
    assert written() == before and len(before) == 7


def test_a_killed_prepare_leaves_nothing_half_done_under_a_final_name(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from pipeline.config.params import load_params
from pipeline.prepare.prepare import write_image_shards
params = load_params({str(Path(__file__).parents[3] / "params.yaml")!r})
out, storage = {str(tmp_path / "images")!r}, {str(tmp_path / "storage")!r}
write_image_shards(params.prepare, Path(out), 1, storage)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    stored = tmp_path / "storage" / "shards"
    while not list(stored.glob("*.tar")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "images").exists()
    for path in stored.glob("*.tar"):
        assert path.name == f"{sha256_file(path)}.tar"


def test_shards_are_streamed_as_if_they_lay_beside_their_manifests(
    built: Layout, params: Params, stored: tuple[Layout, Storage], stored_params: Params
) -> None:
    for split in SPLITS:
        ours, theirs = paired(stored_params, stored[0], split), paired(params, built, split)
        assert [s.jpeg for s in ours] == [s.jpeg for s in theirs]
        assert [s.view_embeddings.tobytes() for s in ours] == [
            s.view_embeddings.tobytes() for s in theirs
        ]


def test_a_reader_takes_the_file_where_there_is_one(
    built: Layout, stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    for shard in shards(layout.images):
        storage.delete(object_name(shard))
    with complains(storage.address, "missing", "000000.tar"):
        paired(stored_params, layout)
    for path in built.images.rglob("*.tar"):
        shutil.copy(path, layout.images / path.relative_to(built.images))
    assert len(paired(stored_params, layout)) == 24
    local = layout.images / "train" / "000001.tar"
    local.write_bytes(local.read_bytes()[:-1])  # not what the manifest lists
    with complains(storage.address, "missing", "000001.tar"):
        paired(stored_params, layout)


def test_a_truncated_object_is_refused(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    shard = Manifest.read(layout.images / "train", "prepare").shards[1]
    damage(storage, shard, cut)
    with complains(shard.sha256, "000001.tar", f"{shard.bytes - 20_000} bytes", "run the stage"):
        paired(stored_params, layout)


@pytest.mark.parametrize("side", ["images", "embeddings"])
def test_a_wrong_object_is_refused_and_found_by_verify(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any, side: str
) -> None:
    layout, storage = stored
    shard = Manifest.read(getattr(layout, side) / "train", "prepare").shards[1]
    damage(storage, shard, flip)
    with complains(shard.sha256):
        paired(stored_params, layout)
    made_by = "prepare" if side == "images" else "embed"
    with complains(shard.sha256, "its bytes differ", f"dvc repro -f {made_by}"):
        verify_cache(
            open_cache(stored_params, layout, "train"), load_teacher(layout.teacher), 0, whole=True
        )


def embed_stored(params: Params, layout: Layout) -> None:
    embed(params, layout)


def test_embedding_refuses_images_that_are_not_those_of_the_manifest(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    shard = Manifest.read(layout.images / "train", "prepare").shards[1]
    damage(storage, shard, flip)
    (layout.embeddings / "train" / "manifest.json").unlink()
    with complains(shard.sha256, "its bytes differ", "dvc repro -f prepare"):
        embed_stored(stored_params, layout)
    assert not (layout.embeddings / "train" / "manifest.json").exists()


def test_embedding_leaves_manifests_and_they_are_those_of_local_shards(
    built: Layout, stored: tuple[Layout, Storage], stored_params: Params
) -> None:
    layout, storage = stored
    for shard in shards(layout.embeddings):
        storage.delete(object_name(shard))
    shutil.rmtree(layout.embeddings)
    embed_stored(stored_params, layout)
    assert everything(layout.embeddings) == {f"{split}/manifest.json" for split in SPLITS}
    assert texts(layout.embeddings) == texts(built.embeddings)
    assert paired(stored_params, layout)


def test_another_checkout_embeds_nothing_that_is_in_the_storage(
    built: Layout, storage: Storage, make_params: Callable[..., Params], tmp_path: Path, log: Any
) -> None:
    params = make_params(data={"storage": storage.address})
    for name in ("one", "two"):
        layout = Layout(tmp_path / name)
        shutil.copytree(built.teacher, layout.teacher)
        write_image_shards(params.prepare, layout.images, 1, storage.address)
        log.clear()
        embed_stored(params, layout)
        assert ("keeping 3 of 3 finished shards" in log.text) == (name == "two")
        assert texts(layout.embeddings) == texts(built.embeddings)
    (identity,) = [
        name for name in storage.names("teacher") if len(storage.names(f"teacher/{name}")) == 3
    ]
    records = storage.names(f"teacher/{identity}")
    manifest = Manifest.read(layout.embeddings / "train", "embed")
    images = Manifest.read(layout.images / "train", "prepare").shards
    assert sorted(record_name(manifest.identity, s) for s in images) == [
        f"teacher/{identity}/{record}" for record in records
    ]
    # a shard that is missing in the storage is computed again, and so is one without a valid record
    storage.delete(object_name(manifest.shards[0]))
    storage.write(record_name(manifest.identity, images[1]), b"{")
    log.clear()
    embed_stored(params, layout)
    assert "keeping 1 of 3 finished shards" in log.text
    assert texts(layout.embeddings) == texts(built.embeddings)


def test_shards_that_were_embedded_before_the_move_are_uploaded_and_not_made_again(
    built: Layout, checkout: Layout, storage: Storage, make_params: Callable[..., Params], log: Any
) -> None:
    params = make_params(data={"storage": storage.address})
    local = checkout.embeddings / "train" / "000001.tar"
    local.write_bytes(flip(local.read_bytes()))  # but not this one
    embed_stored(params, checkout)
    assert "keeping 2 of 3 finished shards" in log.text
    assert everything(checkout.embeddings) == {f"{split}/manifest.json" for split in SPLITS}
    assert texts(checkout.embeddings) == texts(built.embeddings)
    assert paired(params, checkout)  # images from the folder, vectors from the storage


def test_missing_shards_are_uploaded_from_the_folder(
    built: Layout, storage: Storage, complains: Any, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(built.images, images)
    folder = ShardFolder(images / "train", storage.address)
    upload_missing(folder)
    assert len(storage.names("shards")) == 3
    for path in folder.path.glob("*.tar"):
        path.unlink()
    upload_missing(folder)  # all are there
    shard = folder.manifest("prepare").shards[2]
    storage.delete(object_name(shard))
    with complains(folder.path / shard.name, "missing", "dvc repro -f prepare"):
        upload_missing(folder)


def test_a_storage_that_cannot_be_written_is_told_before_work_begins(
    params: Params, tmp_path: Path, complains: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    start = time.monotonic()
    with complains(tmp_path / "file", "cannot be written"):
        write_image_shards(params.prepare, tmp_path / "images", 1, str(tmp_path / "file"))
    assert time.monotonic() - start < 5 and everything(tmp_path) == {"file"}
