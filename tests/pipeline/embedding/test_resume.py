"""Finished shards are kept, and only those that a change or a fault affects are computed again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from tests.helpers.results import edit_json
from tests.helpers.teacher_cache import MakeParams, ages, files, paired, run
from tests.helpers.waiting import wait_for


def test_a_second_run_keeps_every_finished_shard(
    checkout: Layout, params: Params, log: Any
) -> None:
    before = ages(checkout.embeddings)
    run(params, checkout)
    assert ages(checkout.embeddings) == before and len(before) == 7
    assert len([*checkout.embeddings.rglob("*.idx")]) == 7
    assert "keeping 3 of 3 finished shards" in log.text


def damage_bytes(folder: Path) -> None:
    data = bytearray((folder / "000001.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "000001.tar").write_bytes(data)


def damage_identity(folder: Path) -> None:
    edit_json(folder / "000001.json", lambda v: v["identity"]["views"].update(seed=1))


def damage_images(folder: Path) -> None:
    edit_json(folder / "000001.json", lambda v: v.update(images_sha256="0" * 64))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_bytes, "its bytes changed"),
        (damage_identity, "views.seed is 1, wanted 0"),
        (damage_images, "its images changed"),
        (
            lambda folder: (folder / "000001.json").write_text("{", encoding="utf-8"),
            "tar: its record is damaged",
        ),
        (
            lambda folder: (folder / "000001.json").write_text("[]", encoding="utf-8"),
            "tar: its record is damaged",
        ),
        (lambda folder: (folder / "000001.json").unlink(), "keeping 2 of 3"),
        (lambda folder: (folder / "000001.tar").unlink(), "000001.tar: it is missing"),
    ],
)
def test_only_the_shard_that_does_not_fit_is_made_again(
    checkout: Layout, params: Params, log: Any, damage: Callable[[Path], Any], reason: str
) -> None:
    contents, before = files(checkout.embeddings), ages(checkout.embeddings)
    damage(checkout.embeddings / "train")
    run(params, checkout)
    assert files(checkout.embeddings) == contents
    after = ages(checkout.embeddings)
    assert {name for name in after if after[name] != before[name]} == {"train/000001.tar"}
    assert reason in log.text


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_missing_or_wrong_index_is_written_again_and_nothing_is_embedded(
    checkout: Layout, params: Params, damage: Callable[[Path], Any]
) -> None:
    indexes = {path: path.read_bytes() for path in checkout.embeddings.rglob("*.idx")}
    before = ages(checkout.embeddings)
    for path in indexes:
        damage(path)
    run(params, checkout)
    assert {path: path.read_bytes() for path in checkout.embeddings.rglob("*.idx")} == indexes
    assert ages(checkout.embeddings) == before and len(indexes) == 7


def test_a_change_of_views_embeds_the_training_split_again_and_no_other_image(
    checkout: Layout, make_params: MakeParams
) -> None:
    before = ages(checkout.embeddings)
    more = make_params(embed={"views": 4})
    run(more, checkout)
    after = ages(checkout.embeddings)
    assert {name for name in after if after[name] != before[name]} == {
        f"train/00000{n}.tar" for n in range(3)
    }
    assert all(len(sample.views) == 4 for sample in paired(checkout, more))


def test_what_is_no_longer_listed_is_deleted(checkout: Layout, params: Params) -> None:
    contents = files(checkout.embeddings)
    folder = checkout.embeddings / "train"
    for name in ("000099.tar", "000099.json", "000000.tar.77.partial", "notes.txt"):
        (folder / name).write_text("stranger", encoding="utf-8")
    run(params, checkout)
    assert files(checkout.embeddings) == contents


def test_a_stray_folder_is_deleted_too(checkout: Layout, params: Params) -> None:
    contents = files(checkout.embeddings)
    (checkout.embeddings / "train" / ".ipynb_checkpoints").mkdir()
    run(params, checkout)
    assert files(checkout.embeddings) == contents
    assert not (checkout.embeddings / "train" / ".ipynb_checkpoints").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_keeps_its_finished_shards_and_ends_with_the_same_bytes(
    checkout: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    """A real SIGKILL of the stage while it makes its second shard or a later one."""
    slow = make_params(embed={"views": 60})
    (checkout.root / "params.yaml").write_text(
        yaml.safe_dump(slow.model_dump(mode="json")), encoding="utf-8"
    )
    shutil.rmtree(checkout.embeddings)
    run(slow, checkout, tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.embed"],
        cwd=checkout.root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    folder = checkout.embeddings / "train"
    first = folder / "000000.json"
    wait_for(lambda: first.exists() or process.poll() is not None, poll_s=0.001)
    assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
    process.kill()
    process.wait(60)
    finished = {path.stem for path in folder.glob("*.json")}
    before = ages(checkout.embeddings)
    assert "000000" in finished and not (folder / "manifest.json").exists()
    run(slow, checkout)
    assert files(checkout.embeddings) == files(tmp_path / "whole")
    after = ages(checkout.embeddings)
    made_again = {name for name in before if after[name] != before[name]}
    assert made_again <= {name for name in before if Path(name).stem not in finished}
    assert len(made_again) <= 1


@pytest.mark.slow
def test_a_disk_that_fills_up_is_reported_in_one_line_and_the_stage_goes_on_later(
    checkout: Layout, make_params: MakeParams, run_python: Any
) -> None:
    """A limit of the size of files stands for the disk."""
    script = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["embed"]
import runpy
runpy.run_module("stages.embed", run_name="__main__")
"""
    params = make_params()
    (checkout.root / "params.yaml").write_text(
        yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8"
    )
    contents = files(checkout.embeddings)
    limit = (checkout.embeddings / "train" / "000000.tar").stat().st_size - 1
    shutil.rmtree(checkout.embeddings)
    failed = run_python("-c", script, str(limit), cwd=checkout.root)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith(
        f"embed: {checkout.embeddings / 'train' / '000000.tar'}: cannot be written (File too large)"
    )
    assert files(checkout.embeddings) == {}
    run(params, checkout)
    assert files(checkout.embeddings) == contents
