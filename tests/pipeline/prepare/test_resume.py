"""A run of `prepare` goes on where another one ended, and comes to the same bytes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.shard_folder import ShardFolder, object_name
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.prepare.identity import versions
from pipeline.prepare.plan import ShardPlan, unfinished
from pipeline.prepare.prepare import write_image_shards
from pipeline.prepare.readers.base import Rejected, Sample, Source
from pipeline.prepare.worker import PrepareConfig, PrepareWorker, RayPrepareWorker
from pipeline.storage.storage import Storage
from tests.helpers.manifests import manifests
from tests.helpers.stored_shards import everything
from tests.helpers.waiting import wait_for

SCRIPT = """
import resource, sys
from pathlib import Path
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.prepare import write_image_shards
params = PrepareParams.model_validate_json(Path(sys.argv[1]).read_text())
if limit := int(sys.argv[4]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
write_image_shards(params, Path(sys.argv[2]), storage=sys.argv[3] or None)
"""


def states(folder: Path, pattern: str = "*/0*") -> dict[str, int]:
    """Time of the last write of each file of shards."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob(pattern)}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in everything(folder)}


@pytest.fixture
def prepared(built: Layout, tmp_path: Path) -> Path:
    """A copy of the finished shards, which a test may damage."""
    return Path(shutil.copytree(built.images, tmp_path / "images"))


@pytest.fixture
def command(params: Params, tmp_path: Path) -> Callable[..., list[str]]:
    """The command that prepares in a process of its own."""

    def make(out: Path, storage: str = "", limit: int = 0, count: int = 24) -> list[str]:
        section = params.prepare
        assert section.scenes is not None
        scenes = section.scenes.model_copy(update={"train": count})
        values = tmp_path / f"params-{count}.json"
        text = section.model_copy(update={"scenes": scenes}).model_dump_json()
        values.write_text(text, encoding="utf-8")
        return [sys.executable, "-c", SCRIPT, str(values), str(out), storage, str(limit)]

    return make


def test_a_second_run_makes_nothing(prepared: Path, params: Params, log: Any) -> None:
    before, whole = states(prepared), contents(prepared)
    write_image_shards(params.prepare, prepared)
    assert states(prepared) == before and contents(prepared) == whole
    assert "keeping 7 of 7 finished shards" in log.text


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_a_killed_run_keeps_the_shards_that_it_finished(
    command: Any, tmp_path: Path, stored: bool
) -> None:
    address, out = str(tmp_path / "storage") if stored else "", tmp_path / "out"
    records = tmp_path / ("storage/prepared" if stored else "out/train")
    process = subprocess.Popen(command(out, address, count=400))
    wait_for(lambda: len([*records.rglob("*.json")]) > 2 or process.poll() is not None, poll_s=0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not [*out.rglob("manifest.json"), *out.rglob("dataset.json")]
    finished = states(records, "**/*.json")
    subprocess.run(command(out, address, count=400), check=True)
    assert finished.items() <= states(records, "**/*.json").items()
    subprocess.run(command(tmp_path / "whole", count=400), check=True)
    ours, theirs = manifests(out, address or None), manifests(tmp_path / "whole")
    assert ours == theirs
    assert stored or contents(out) == contents(tmp_path / "whole")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "000001.tar": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    "000002.tar": lambda path: path.unlink(),
    "000000.record.json": lambda path: path.write_bytes(path.read_bytes()[:-9]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_made_again_and_nothing_else(
    prepared: Path, params: Params, log: Any, name: str
) -> None:
    whole, before = contents(prepared), states(prepared)
    DAMAGE[name](prepared / "train" / name)
    write_image_shards(params.prepare, prepared)
    assert contents(prepared) == whole and "keeping 6 of 7" in log.text
    changed = {file for file, time in states(prepared).items() if before[file] != time}
    assert changed and {Path(file).name[:6] for file in changed} == {name[:6]}


def test_a_missing_or_wrong_index_is_written_again_and_its_shard_is_kept(
    prepared: Path, params: Params, log: Any
) -> None:
    whole, before = contents(prepared), states(prepared, "**/*.tar")
    folder = prepared / "train"
    (folder / "000000.idx").unlink()
    (folder / "000001.idx").write_bytes((folder / "000002.idx").read_bytes())
    write_image_shards(params.prepare, prepared)
    assert contents(prepared) == whole and "keeping 7 of 7" in log.text
    assert states(prepared, "**/*.tar") == before


def test_other_params_make_all_shards_and_the_first_ones_make_them_again(
    built: Layout, prepared: Path, make_params: Callable[..., Params]
) -> None:
    write_image_shards(make_params(prepare={"seed": 5}).prepare, prepared)
    assert not {s.sha256 for m in manifests(prepared) for s in m.shards} & {
        s.sha256 for m in manifests(built.images) for s in m.shards
    }
    write_image_shards(make_params().prepare, prepared)
    assert contents(prepared) == contents(built.images)


def test_more_data_makes_the_shards_that_it_changes(
    prepared: Path, make_params: Callable[..., Params], tmp_path: Path
) -> None:
    before = states(prepared, "*/0*.tar")
    more = make_params(prepare={"scenes": {"train": 36, "val": 12, "test": 12}}).prepare
    write_image_shards(more, prepared)
    changed = {
        file for file, time in states(prepared, "*/0*.tar").items() if before.get(file) != time
    }
    assert changed == {"train/000002.tar", "train/000003.tar"}
    write_image_shards(more, tmp_path / "whole")
    assert contents(prepared) == contents(tmp_path / "whole")


def test_what_no_manifest_lists_is_deleted_and_no_more(
    prepared: Path, params: Params, tmp_path: Path
) -> None:
    whole = contents(prepared)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (prepared / "old").mkdir()
    unlisted = "old/000000.tar", "train/000009.tar", "train/000009.record.json", "val/rejected.json"
    for name in unlisted:
        (prepared / name).touch()
    (prepared / "test" / "link").symlink_to(tmp_path / "mine")
    write_image_shards(params.prepare, prepared)
    assert contents(prepared) == whole and not (prepared / "old").exists()
    assert not (prepared / "test" / "link").is_symlink() and (tmp_path / "mine" / "file").exists()


def test_a_checkout_finds_the_shards_of_another_in_the_storage(
    prepared: Path, params: Params, storage: Storage, tmp_path: Path, log: Any
) -> None:
    write_image_shards(params.prepare, prepared, storage=storage.address)  # made before the move
    assert "keeping 7 of 7" in log.text
    assert {path.name for path in prepared.rglob("*.*")} == {"dataset.json", "manifest.json"}
    log.clear()
    write_image_shards(params.prepare, tmp_path / "other", storage=storage.address)
    assert "keeping 7 of 7" in log.text
    assert contents(tmp_path / "other") == contents(prepared)
    lost = manifests(prepared, storage.address)[0].shards[1]
    storage.delete(object_name(lost))
    write_image_shards(params.prepare, tmp_path / "other", storage=storage.address)
    assert storage.size(object_name(lost)) == lost.bytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this limit")
def test_a_storage_that_runs_full_is_one_line_and_the_next_run_goes_on(
    command: Any, tmp_path: Path, built: Layout
) -> None:
    out, storage = tmp_path / "out", str(tmp_path / "storage")
    first = (built.images / "train" / "000000.tar").stat().st_size  # later ones are larger
    limited = command(out, storage, limit=first, count=400)
    failed = subprocess.run(limited, capture_output=True, text=True, encoding="utf-8")
    line = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 1 and "StorageError" in line and "cannot be written" in line
    kept = states(tmp_path / "storage", "prepared/*/*.json")
    assert kept and not [*out.rglob("manifest.json")]
    subprocess.run(command(out, storage, count=400), check=True)
    assert kept.items() <= states(tmp_path / "storage", "prepared/*/*.json").items()
    assert manifests(out, storage)[0].samples == 400


def vanishes(number: int) -> Sample | Rejected:
    cells = np.zeros((8, 9), np.float32).tobytes()
    if number == 13:
        return Rejected("13", "no such file", unread=True)
    return Sample(str(number), b"image", [], str(number), grid=cells)


def test_a_shard_of_which_an_input_has_vanished_is_tried_again(tmp_path: Path) -> None:
    inputs = {"train": range(30), "val": [], "test": []}
    plan = ShardPlan("numbers", None, Source(inputs, vanishes), ShardFolder(tmp_path), 10)
    worker = PrepareWorker(PrepareConfig(vanishes, versions()))
    results = [worker.run(task, lambda *_: None) for task in plan]
    assert [len(result.rejected) for result in results] == [0, 1, 0]
    assert [task.key.name for task in unfinished(plan, lambda *_: None)] == ["000001.tar"]


@pytest.mark.slow
def test_a_worker_that_would_make_other_shards_refuses(tmp_path: Path, complains: Any) -> None:
    config = PrepareConfig(vanishes, versions() | {"pillow": "0.1"}, tmp_path)
    with complains("a worker on", "pillow", "not 0.1", "requirements.lock"):
        RayPrepareWorker(config).place()
    with complains("does not see", tmp_path / "lost", "prepare.path"):
        RayPrepareWorker(replace(config, path=tmp_path / "lost")).place()
