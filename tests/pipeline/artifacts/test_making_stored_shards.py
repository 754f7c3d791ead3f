"""prepare and embed with a storage: the same manifests, nothing made or uploaded twice."""

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
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import object_name
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import write_teacher_shards
from pipeline.embedding.shard_records import record_name
from pipeline.prepare.prepare import write_image_shards
from pipeline.storage.files import sha256_file
from pipeline.storage.storage import Storage
from tests.helpers.s3_server import S3Server
from tests.helpers.stored_shards import damage, everything, flip, paired, shards, texts
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def test_prepare_leaves_manifests_and_they_are_those_of_local_shards(
    built: Layout,
    params: Params,
    storage: Storage,
    run_python: Any,
    tmp_path: Path,
) -> None:
    out, values = tmp_path / "images", tmp_path / "params.json"
    values.write_text(params.prepare.model_dump_json(), encoding="utf-8")
    script = f"""
from pathlib import Path
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.prepare import write_image_shards
params = PrepareParams.model_validate_json(Path({str(values)!r}).read_text())
write_image_shards(params, Path({str(out)!r}), storage={storage.address!r})
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert texts(out) == texts(built.images)
    assert everything(out) == set(texts(out))
    for shard, split in (
        (s, p) for p in SPLITS for s in Manifest.read(out / p, storage.address).shards
    ):
        data = storage.read(f"shards/{shard.sha256}.tar")
        assert data == (built.images / split / shard.name).read_bytes()
    assert storage.names() == ["manifests", "prepared", "shards"]


def test_what_the_storage_has_is_not_uploaded_again(
    params: Params, bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    def written() -> dict[str, Any]:
        listed = s3_server.client().list_objects_v2(Bucket=bucket.removeprefix("s3://"))
        return {entry["Key"]: entry["LastModified"] for entry in listed["Contents"]}

    write_image_shards(params.prepare, tmp_path / "one", storage=bucket)
    before = written()
    time.sleep(1.1)  # the server tells seconds
    write_image_shards(params.prepare, tmp_path / "two", storage=bucket)
    assert written() == before and len(before) == 3 * 7 + 3  # shards, indexes, records; chunks


def test_a_killed_prepare_leaves_nothing_half_done_under_a_final_name(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from pipeline.config.params import load_params
from pipeline.prepare.prepare import write_image_shards
params = load_params({str(Path(__file__).parents[3] / "params.yaml")!r})
images, storage = Path({str(tmp_path / "images")!r}), {str(tmp_path / "storage")!r}
write_image_shards(params.prepare, images, storage=storage)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    stored = tmp_path / "storage" / "shards"
    wait_for(lambda: [*stored.glob("*.tar")] or process.poll() is not None, poll_s=0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not [*(tmp_path / "images").rglob("manifest.json")]
    for path in stored.glob("*.tar"):
        assert path.name == f"{sha256_file(path)}.tar"


def embed_stored(params: Params, layout: Layout) -> None:
    write_teacher_shards(
        params.embed, params.cluster, layout.images, layout.teacher, layout.embeddings,
        params.data.storage,
    )  # fmt: skip


def test_embedding_refuses_images_that_are_not_those_of_the_manifest(
    stored: tuple[Layout, Storage], stored_params: Params, complains: Any
) -> None:
    layout, storage = stored
    shard = Manifest.read(layout.images / "train", storage.address).shards[1]
    damage(storage, shard, flip)
    (layout.embeddings / "train" / "manifest.json").unlink()
    with complains(shard.sha256, "its bytes differ", "dvc repro -f prepare"):
        embed_stored(stored_params, layout)
    assert not (layout.embeddings / "train" / "manifest.json").exists()


def test_embedding_leaves_manifests_and_they_are_those_of_local_shards(
    built: Layout, stored: tuple[Layout, Storage], stored_params: Params
) -> None:
    layout, storage = stored
    for shard in shards(layout.embeddings, storage):
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
        write_image_shards(params.prepare, layout.images, storage=storage.address)
        log.clear()
        embed_stored(params, layout)
        assert ("keeping 3 of 3 finished shards" in log.text) == (name == "two")
        assert texts(layout.embeddings) == texts(built.embeddings)
    (identity,) = [
        name for name in storage.names("teacher") if len(storage.names(f"teacher/{name}")) == 3
    ]
    notes = storage.names(f"teacher/{identity}")
    manifest = Manifest.read(layout.embeddings / "train", storage.address)
    images = Manifest.read(layout.images / "train", storage.address).shards
    assert sorted(record_name(manifest.identity, s) for s in images) == [
        f"teacher/{identity}/{note}" for note in notes
    ]
    # what a note names and the storage has not is made again, and so is what has no right note
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


def test_a_storage_that_cannot_be_written_is_told_before_work_begins(
    params: Params, tmp_path: Path, complains: Any
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    start = time.monotonic()
    with complains(tmp_path / "file", "cannot be written"):
        write_image_shards(params.prepare, tmp_path / "images", storage=str(tmp_path / "file"))
    assert time.monotonic() - start < 5 and everything(tmp_path) == {"file"}
