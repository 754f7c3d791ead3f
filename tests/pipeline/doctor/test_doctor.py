"""The doctor names what would go wrong, and what to do about it, before anything starts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.artifacts.shards import Manifest
from pipeline.cli.main import app
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor import disk, machines
from pipeline.doctor.check import Check, listed
from pipeline.doctor.examine import preflight
from pipeline.doctor.node import Gpu, NodeFacts, Questions, look
from pipeline.doctor.nodes import Survey
from pipeline.doctor.training import Rates, judged, measured
from pipeline.storage.storage import open_storage
from pipeline.training.distill import train_config
from tests.helpers.s3_server import SECRET, S3Server

pytestmark = pytest.mark.usefixtures("loggers")

GB = 10**9
CLUSTER = {"mode": "cluster", "address": "http://127.0.0.1:8265"}
H100, V100 = Gpu("NVIDIA H100", True), Gpu("Tesla V100", False)


@pytest.fixture
def here(
    built: Layout,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Layout:
    """The folder one is in: a prepared checkout in git, with the student still to come."""
    shutil.copytree(built.root, tmp_path / "checkout", symlinks=True)
    layout = Layout(tmp_path / "checkout")
    layout.params.write_text(yaml.safe_dump(params.model_dump(mode="json")))
    (layout.root / ".gitignore").write_text("/out/\n/work/\n")
    monkeypatch.setenv("PATH", f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    git(layout, "init", "-q")
    git(layout, "add", "-A")
    git(layout, "commit", "-qm", "start")
    monkeypatch.chdir(layout.root)
    return layout


def git(layout: Layout, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
    subprocess.run(["git", *who, *arguments], cwd=layout.root, check=True)


def change(layout: Layout, **sections: dict[str, Any]) -> None:
    """Changes params.yaml, and commits it."""
    values = yaml.safe_load(layout.params.read_text())
    for section, keys in sections.items():
        values[section] |= keys
    layout.params.write_text(yaml.safe_dump(values))
    git(layout, "commit", "-qam", "change")


def doctor(*arguments: str) -> tuple[int, list[str]]:
    """Exit status, and the lines that are no good."""
    result = CliRunner().invoke(app, ["doctor", "--quick", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    lines = result.output.splitlines()
    return result.exit_code, [line for line in lines if line.startswith(("fault", "warning"))]


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
    path.write_text(path.read_text().replace('"samples": 10', '"samples": 11'))


def other_teacher(layout: Layout) -> None:
    path = layout.teacher / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def no_weights(layout: Layout) -> None:
    change(layout, distill={"backbone_weights": str(layout.root / "yolov8n.pt")})


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
        (unshared, "data.storage", ["not-mounted is not there; mount or make it"]),
        (read_only, "cluster.storage", ["work/file is not there"]),
        (lost_shard, "shards", ["1 of 3 shards", "000001.tar", "`dvc repro -f prepare`"]),
        (cut_shard, "shards", ["1 of 2 shards", "embeddings/val", "`dvc repro -f embed`"]),
        (edited_manifest, "shards", ["edited after it was written"]),
        (other_teacher, "teacher", ["are not those of", "`dvc repro -f teacher`"]),
        (no_weights, "distill.backbone_weights", ["yolov8n.pt is not there"]),
        (no_gpu, "devices", ["0 GPUs", "cluster.use_gpu is true", "set cluster.use_gpu to auto"]),
        (uneven, "training", ["global_batch_size = 8", "4 workers", "cluster.num_workers"]),
        (other_views, "training", ["views.count is 3, wanted 2", "`dvc repro embed`"]),
        (old_mlflow, "MLflow", ["is a folder", "mlflow migrate-filestore"]),
        (no_cluster, "cluster", ["http://127.0.0.1:9", "cluster"]),
        (no_dvc, "dvc", ["has no dvc.yaml", "run in a checkout"]),
    ],
)
def test_a_fault_is_named_with_its_cure_and_the_exit_status_is_1(
    here: Layout, break_it: Callable[[Layout], None], name: str, words: list[str]
) -> None:
    break_it(here)
    status, lines = doctor()
    named = [line for line in lines if line.startswith(f"fault   {name}")]
    assert status == 1 and len(named) == 1, lines
    for word in words:
        assert word in named[0]


def uncommitted(layout: Layout) -> None:
    (layout.params).write_text(layout.params.read_text() + "# a thought\n")


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
        (uncommitted, "git", ["differ from commit", "commit them"]),
        (dead_mlflow, "MLflow", ["127.0.0.1:9", "kdeov publish"]),
        (dead_database, "MLflow", ["127.0.0.1:9", "kdeov publish"]),
        (locked_database, "MLflow", ["not a database", "kdeov publish"]),
    ],
)
def test_what_does_not_stop_a_run_is_a_warning_and_the_exit_status_is_0(
    here: Layout, break_it: Callable[[Layout], None], name: str, words: list[str]
) -> None:
    break_it(here)
    status, lines = doctor()
    assert status == 0 and len(lines) == 1, lines
    assert lines[0].startswith(f"warning {name}") and "hush" not in lines[0]
    for word in words:
        assert word in lines[0]


def test_before_the_first_run_there_is_nothing_to_complain_of(here: Layout) -> None:
    shutil.rmtree(here.root / "out")
    assert doctor() == (0, [])


def test_a_database_that_someone_else_writes_is_told(here: Layout) -> None:
    here.tracking_database.parent.mkdir(parents=True)
    with sqlite3.connect(here.tracking_database, isolation_level=None) as other:
        other.execute("CREATE TABLE t (x)")
        assert doctor() == (0, [])
        other.execute("BEGIN EXCLUSIVE")
        status, (line,) = doctor()
        other.execute("ROLLBACK")
    assert status == 0 and "database is locked" in line


def test_a_job_that_would_fail_is_refused_in_one_line_with_all_faults(
    here: Layout, make_params: Callable[..., Params], complains: Any
) -> None:
    lost_shard(here)
    sick = make_params(cluster={"use_gpu": True})
    words = ("nothing was started", "2 faults", "devices:", "0 GPUs", "shards:", "000001.tar")
    with complains(*words):
        preflight(sick, here)


def test_a_job_that_would_not_fail_starts_and_its_warnings_are_logged(
    here: Layout, make_params: Callable[..., Params], log: Any
) -> None:
    preflight(make_params(tracking={"uri": "sqlite:////dev/null/mlflow.db"}), here, quick=True)
    (warning,) = [record for record in log.records if record.levelname == "WARNING"]
    assert "MLflow" in warning.getMessage()


@pytest.fixture
def in_bucket(here: Layout, bucket: str, s3_server: S3Server) -> Layout:
    """The checkout with its shards in a bucket, except for one."""
    change(here, data={"storage": f"{bucket}/data"})
    for manifest in here.root.glob("out/*/*/manifest.json"):
        for shard in Manifest.read(manifest.parent).shards:
            path = manifest.parent / shard.name
            open_storage(f"{bucket}/data").upload(path, f"shards/{shard.sha256}.tar")
            path.unlink()
    return here


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


def test_shards_that_lie_here_alone_are_no_fault(here: Layout, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    change(here, data={"storage": str(tmp_path / "storage")})
    assert doctor() == (0, [])


def test_a_bucket_that_is_away_is_told_in_time_and_without_secrets(
    in_bucket: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.doctor.node.PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    status, (line,) = doctor()
    assert status == 1 and line.startswith("fault   data.storage")
    assert "cannot be written" in line and "AWS_ENDPOINT_URL" in line and SECRET not in line


def node(name: str = "a", **changes: Any) -> NodeFacts:
    facts = NodeFacts(
        name, {"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"}, "c0de", cpus=4,
        shared_memory=8 * GB,
    )  # fmt: skip
    return replace(facts, **changes)


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def test_the_node_that_differs_is_named_with_both_versions() -> None:
    odd = node("c", versions={"python": "3.11.7", "torch": "2.7.0", "ray": "2.60.0"}, code="other")
    versions, code = machines.alike(Survey([node("a"), node("b"), odd], {}))
    assert versions.verdict == code.verdict == "fault"
    assert versions.found == "c has torch 2.7.0, others have 2.14.1"
    assert code.found == "c has code other, others have c0de"


def test_a_package_that_one_node_lacks_is_a_difference() -> None:
    rich = node("b", versions={**node().versions, "timm": "1.0.31"})
    (versions,) = [
        c for c in machines.alike(Survey([node("a"), node("c"), rich], {})) if "v" in c.name
    ]
    assert versions.found == "b has timm 1.0.31, others have none"


def test_a_node_that_does_not_answer_is_named() -> None:
    checks = machines.alike(Survey([node()], {"b": "did not answer within 120 s"}))
    assert checks[0].text.startswith("b did not answer") and checks[0].verdict == "fault"


@pytest.mark.parametrize(
    ("ahead", "error", "verdict"),
    [(0.5, 0.0, "ok"), (3.0, 0.0, "warning"), (3.0, 1.5, "ok"), (-400.0, 0.1, "fault")],
)
def test_clocks_apart_are_told_as_far_as_the_round_trip_lets_one_know(
    ahead: float, error: float, verdict: str
) -> None:
    (check,) = machines.clocks([node("a"), node("b", clock=ahead, clock_error=error)])
    assert check.verdict == verdict
    if verdict != "ok":
        assert f"{abs(ahead):.1f} s ahead" in check.found


@pytest.mark.parametrize(
    ("cluster", "nodes", "verdict", "words"),
    [
        ({"num_workers": 4}, [node(gpus=(H100,) * 4, gpus_of_ray=4)], "ok", "GPUs train"),
        ({"num_workers": 4}, [node(gpus=(H100,) * 2)] * 2, "ok", "4 GPUs (NVIDIA H100)"),
        ({"num_workers": 4}, [node(gpus=(H100,) * 2)], "warning", "set cluster.num_workers to 2"),
        ({"num_workers": [2, 8]}, [node(gpus=(H100,) * 2)], "ok", "2 of up to 8 workers"),
        ({"num_workers": 4, "use_gpu": True}, [node(gpus=(H100,))], "fault", "workers = 4"),
        ({"num_workers": 4, "use_gpu": False}, [node(gpus=(H100,))], "ok", "CPUs train"),
        ({"num_workers": 4}, [node()], "ok", "4 CPUs, 0 GPUs: CPUs train"),
        ({"num_workers": 9}, [node()], "warning", "they would share"),
        ({"num_workers": 9, **CLUSTER}, [node()] * 2, "warning", "waits for more"),
        ({"num_workers": 9, "use_gpu": True, **CLUSTER}, [node(gpus=(H100,))], "warning", "waits"),
        ({"num_workers": 9, "use_gpu": True, **CLUSTER}, [node()], "fault", "0 GPUs"),
        ({"num_workers": 9, "mode": "inline"}, [node()], "ok", "CPUs train"),
    ],
)
def test_devices_are_compared_with_what_params_ask_for(
    cluster: dict[str, Any], nodes: list[NodeFacts], verdict: str, words: str
) -> None:
    (check,) = machines.devices(nodes, ClusterParams(**cluster))
    assert check.verdict == verdict and words in check.text


def test_gpus_that_torch_cannot_use_and_old_ones_are_told() -> None:
    cluster = ClusterParams(num_workers=2)
    checks = machines.devices([node(gpus_of_ray=2)], cluster)
    assert verdicts(checks) == {"gpu": "fault", "devices": "ok"}
    assert "Ray has 2 GPUs, torch sees 0" in checks[0].found
    checks = machines.devices([node(gpus=(V100, H100))], cluster)
    assert verdicts(checks) == {"devices": "ok", "bfloat16": "warning"}
    assert "a: Tesla V100" in checks[1].found


def test_room_is_compared_with_what_a_run_writes(
    built: Layout, make_params: Callable[..., Params]
) -> None:
    loaders = make_params(
        cluster={"mode": "local", "dataloader_workers": 2}, distill={"ema_decay": 0.9}
    )
    wanted = disk.needs(loaders, built, built.runs, 32, {})
    plain = disk.needs(make_params(), built, built.runs, 32, {})
    assert wanted.rooms[built.runs] > plain.rooms[built.runs] > disk.FLOOR
    assert plain.batches == 0
    assert wanted.batches == 3 * 8 * (3 * 32 * 32 + 2 * 4 * 32)
    enough = node(rooms={built.runs: wanted.rooms[built.runs]})
    scarce = node("b", rooms={built.runs: wanted.rooms[built.runs] - 1})
    assert verdicts(disk.disks([enough], wanted)) == {"disk": "ok"}
    (check,) = disk.disks([enough, scarce], wanted)
    assert check.verdict == "fault" and f"{built.runs} on b has" in check.found


@pytest.mark.parametrize(
    ("free", "batches", "mode", "verdict"),
    [
        (8 * GB, 2 * GB, "local", "ok"),
        (GB, 2 * GB, "local", "fault"),
        (64_000_000, 0, "local", "warning"),
        (64_000_000, 0, "inline", "ok"),
    ],
)
def test_shared_memory_must_hold_the_batches_of_loaders(
    free: int, batches: int, mode: Any, verdict: str
) -> None:
    nodes = [node("a"), node("b", shared_memory=free)]
    cluster = ClusterParams(mode=mode, num_workers=4)
    (check,) = disk.shared_memory(nodes, disk.Needs({}, batches), cluster)
    assert check.verdict == verdict
    if verdict != "ok":
        assert check.found.startswith("b has ") and "--shm-size" in check.cure


def test_checkpoints_are_as_large_as_estimated(
    trained: tuple[Layout, Params],
) -> None:
    layout, params = trained
    files = list(layout.runs.rglob("step-*.pt"))
    size = sum(path.stat().st_size for path in files) / len(files)
    kept = disk.checkpoint_bytes(params, dim=32) / (disk.MAX_CHECKPOINTS + 1)
    assert size == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize(
    ("read", "trained_rate", "loaders", "verdict", "words"),
    [
        (1000, 100, 0, "ok", "waits 9% of the time"),
        (1000, 4000, 0, "warning", "wait 80% of the time; set cluster.dataloader_workers to 4"),
        (1000, 4000, 2, "warning", "wait 50% of the time; set cluster.dataloader_workers to 4"),
        (1000, 4000, 4, "ok", "waits 0% of the time"),
        (
            10,
            4000,
            4,
            "warning",
            "set cluster.dataloader_workers to 400 where there are as many cores",
        ),
    ],
)
def test_the_rate_of_data_is_compared_with_what_training_takes(
    read: float, trained_rate: float, loaders: int, verdict: str, words: str
) -> None:
    check = judged(Rates(read, trained_rate, "cpu"), loaders, cores=16)
    assert check.verdict == verdict and words in check.text


def test_both_rates_are_those_of_the_real_stream_and_the_real_step(
    built: Layout, make_params: Callable[..., Params]
) -> None:
    import torch

    threads = torch.get_num_threads()
    params = make_params()
    rates = measured(train_config(params, built), threads=1, seconds=0.5)
    assert rates.device == "cpu" and rates.read > 20 and rates.trained > 20
    assert torch.get_num_threads() == threads


def test_looking_at_a_machine_says_what_is_there(tmp_path: Path) -> None:
    facts = look(Questions(rooms=(tmp_path / "to" / "come",)), "me")
    assert facts.versions["torch"] and facts.versions["python"] and len(facts.code) == 12
    assert facts.cpus >= 1 and facts.rooms[tmp_path / "to" / "come"] > 0
    assert facts.storages == {} and facts.shards == ()


def test_long_lists_are_counted() -> None:
    assert listed("ab") == "a, b"
    assert listed("abcdef") == "a, b, c and 3 more"
