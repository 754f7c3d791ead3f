"""`kdeov doctor` names what would stop a run, and how to fix it, before anything starts."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.checkout import bytecode
from pipeline.doctor.examine import preflight
from tests.helpers.doctor import change, doctor, git

pytestmark = pytest.mark.usefixtures("loggers")


@pytest.mark.slow
def test_a_sound_checkout_passes_in_a_process_of_its_own(
    here: Layout, run_python: Callable[..., subprocess.CompletedProcess[str]], root: Path
) -> None:
    before = sorted(here.root.rglob("*"))
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from pipeline.cli.main import app; app()"
    )
    result = run_python("-c", script, "doctor", cwd=here.root)
    assert result.returncode == 0, result.stdout + result.stderr
    *lines, last = result.stdout.splitlines()
    assert last == "nothing would stop a run"
    found = {line[8:].split("  ")[0].strip(): line for line in lines}
    assert found.keys() >= {
        "git", "dvc", "clip", "versions", "devices", "disk", "/dev/shm", "shards", "teacher",
        "training", "data rate", "MLflow",
    }  # fmt: skip
    assert all(line.startswith("ok ") for name, line in found.items() if name != "data rate")
    assert "images/s" in found["data rate"]
    assert sorted(here.root.rglob("*")) == before  # it leaves nothing


@pytest.mark.parametrize("kept", [True, False])
def test_an_environment_that_keeps_no_bytecode_is_named(
    monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", not kept)
    checks = bytecode()
    assert [check.name for check in checks] == ([] if kept else ["bytecode"])
    assert all("PYTHONDONTWRITEBYTECODE" in check.finding for check in checks)


def unshared(layout: Layout) -> None:
    change(layout, data={"storage": str(layout.root / "not-mounted")})


def read_only(layout: Layout) -> None:
    storage = layout.root / "work" / "file"
    storage.parent.mkdir(exist_ok=True)
    storage.touch()
    change(layout, cluster={"storage": str(storage)})


def lost_shard(layout: Layout) -> None:
    (layout.images / "train" / "000001.tar").unlink()


def cut_shard(layout: Layout) -> None:
    path = layout.embeddings / "val" / "000000.tar"
    path.write_bytes(path.read_bytes()[:-512])


def edited_manifest(layout: Layout) -> None:
    path = layout.images / "test" / "manifest.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"samples": 12', '"samples": 13'), encoding="utf-8"
    )


def other_teacher(layout: Layout) -> None:
    path = layout.teacher / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def no_weights(layout: Layout) -> None:
    change(layout, distill={"backbone_weights": str(layout.root / "yolov8n.pt")})


def lost_names(layout: Layout) -> None:
    change(layout, zero_shot={"class_names": "names.json"})


def no_gpu(layout: Layout) -> None:
    change(layout, cluster={"use_gpu": True})


def uneven(layout: Layout) -> None:
    change(layout, cluster={"mode": "local", "num_workers": 4})


def other_views(layout: Layout) -> None:
    change(layout, embed={"views": 2})


def old_mlflow(layout: Layout) -> None:
    change(layout, tracking={"uri": "mlruns"})


def no_cluster(layout: Layout) -> None:
    (storage := layout.root / "work" / "storage").mkdir(parents=True)
    where = {"mode": "cluster", "address": "http://127.0.0.1:9", "num_workers": 1}
    change(layout, data={"storage": str(storage)}, cluster=where)


def no_dvc(layout: Layout) -> None:
    (layout.root / "dvc.yaml").unlink()
    git(layout, "commit", "-qam", "no dvc")


@pytest.mark.parametrize(
    ("break_it", "name", "words"),
    [
        (unshared, "data.storage", ["not-mounted"]),
        (read_only, "cluster.storage", ["work/file"]),
        (lost_shard, "shards", ["1 of 3 shards", "000001.tar", "`dvc repro -f prepare`"]),
        (cut_shard, "shards", ["1 of 2 shards", "embeddings/val", "`dvc repro -f embed`"]),
        (edited_manifest, "shards", ["manifest.json"]),
        (other_teacher, "teacher", ["`dvc repro -f teacher`"]),
        (no_weights, "distill.backbone_weights", ["yolov8n.pt"]),
        (lost_names, "zero_shot.class_names", ["names.json", "No such file"]),
        (no_gpu, "devices", ["0 GPUs", "cluster.use_gpu"]),
        (uneven, "training", ["global_batch_size = 8", "4 workers", "cluster.num_workers"]),
        (other_views, "training", ["views.count is 3, wanted 2", "`dvc repro embed`"]),
        (old_mlflow, "MLflow", ["mlruns", "mlflow migrate-filestore"]),
        (no_cluster, "cluster", ["http://127.0.0.1:9", "cluster"]),
        (no_dvc, "dvc", ["dvc.yaml"]),
    ],
)
def test_an_error_is_named_with_its_fix_and_the_exit_status_is_1(
    here: Layout, break_it: Callable[[Layout], None], name: str, words: list[str]
) -> None:
    break_it(here)
    status, lines = doctor()
    named = [line for line in lines if line.startswith(f"error   {name}")]
    assert status == 1 and len(named) == 1, lines
    for word in words:
        assert word in named[0]


def uncommitted(layout: Layout) -> None:
    (layout.params).write_text(
        layout.params.read_text(encoding="utf-8") + "# a thought\n", encoding="utf-8"
    )


def dead_mlflow(layout: Layout) -> None:
    change(layout, tracking={"uri": "http://somebody:hush-hush@127.0.0.1:9"})


def dead_database(layout: Layout) -> None:
    change(layout, tracking={"uri": "postgresql://somebody:hush-hush@127.0.0.1:9/mlflow"})


def locked_database(layout: Layout) -> None:
    layout.tracking_database.parent.mkdir(parents=True)
    layout.tracking_database.write_bytes(b"no database at all, and longer than a header " * 8)


@pytest.mark.parametrize(
    ("break_it", "name", "words"),
    [
        (uncommitted, "git", ["commit"]),
        (dead_mlflow, "MLflow", ["127.0.0.1:9", "kdeov publish"]),
        (dead_database, "MLflow", ["127.0.0.1:9", "kdeov publish"]),
        (locked_database, "MLflow", ["not a database", "kdeov publish"]),
    ],
)
def test_a_warning_leaves_the_exit_status_0(
    here: Layout, break_it: Callable[[Layout], None], name: str, words: list[str]
) -> None:
    break_it(here)
    status, lines = doctor()
    assert status == 0 and len(lines) == 1, lines
    assert lines[0].startswith(f"warning {name}") and "hush" not in lines[0]
    for word in words:
        assert word in lines[0]


def test_before_the_first_run_nothing_is_wrong(here: Layout) -> None:
    shutil.rmtree(here.root / "out")
    assert doctor() == (0, [])


@pytest.mark.slow
def test_a_database_that_another_process_writes_is_a_warning(here: Layout) -> None:
    here.tracking_database.parent.mkdir(parents=True)
    with sqlite3.connect(here.tracking_database, isolation_level=None) as other:
        other.execute("CREATE TABLE t (x)")
        assert doctor() == (0, [])
        other.execute("BEGIN EXCLUSIVE")
        status, (line,) = doctor()
        other.execute("ROLLBACK")
    assert status == 0 and "database is locked" in line


def test_a_job_that_would_fail_is_refused_in_one_line_with_all_errors(
    here: Layout, make_params: Callable[..., Params], complains: Any
) -> None:
    lost_shard(here)
    broken = make_params(cluster={"use_gpu": True})
    words = ("nothing was started", "2 errors", "devices:", "0 GPUs", "shards:", "000001.tar")
    with complains(*words):
        preflight(broken, here)


def test_a_job_that_would_not_fail_starts_and_its_warnings_are_logged(
    here: Layout, make_params: Callable[..., Params], log: Any
) -> None:
    preflight(make_params(tracking={"uri": "sqlite:////dev/null/mlflow.db"}), here, "embed")
    (warning,) = [record for record in log.records if record.levelname == "WARNING"]
    assert "MLflow" in warning.getMessage()


def test_an_evaluation_is_checked_without_what_only_training_needs(
    here: Layout, make_params: Callable[..., Params], log: Any, complains: Any
) -> None:
    other_teacher(here)
    params = make_params(
        tracking={"uri": "sqlite:////dev/null/mlflow.db"}, cluster={"num_workers": 3}
    )
    preflight(params, here, "zero_shot")
    names = {record.getMessage().partition(":")[0] for record in log.records}
    assert {"versions", "shards", "disk"} <= names
    assert not names & {"teacher", "training", "MLflow", "data rate"}
    lost_shard(here)
    with complains("nothing was started", "shards:", "000001.tar"):
        preflight(params, here, "zero_shot")
