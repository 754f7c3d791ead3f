"""A job as files: what it is named by, what a machine makes of it, and what comes back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.cluster.submit import Submission
from pipeline.config.params import Params, load_params
from pipeline.config.paths import Layout
from pipeline.runtime.job import JOB, File, Job
from pipeline.runtime.node import materialize, outputs_of, store, upload_outputs
from pipeline.runtime.ray_session import cpus_each
from pipeline.storage.checked import checked_json
from pipeline.storage.storage import Storage, open_storage

FILES = {
    "out/images/dataset.json": "{}",
    "out/images/train/manifest.json": '{"shards": []}',
    "out/images/train/000000.tar": "images",
    "out/teacher/teacher.json": "{}",
    "out/teacher/identity.json": "{}",
    "out/embeddings/train/manifest.json": '{"shards": []}',
    "out/student/student.json": "{}",
}


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Layout:
    """A checkout with outputs of earlier stages."""
    layout = Layout(tmp_path / "checkout")
    layout.root.mkdir()
    for name in ("kdeov", "pipeline", "stages"):
        (layout.root / name).symlink_to(root / name)
    shutil.copy(root / "dvc.yaml", layout.root)
    for name, text in FILES.items():
        path = layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for split in ("val", "test"):
        for folder in ("images", "embeddings"):
            source = layout.root / "out" / folder / "train"
            shutil.copytree(source, source.parent / split)
    values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    values["data"]["storage"] = str(tmp_path / "storage")
    values["cluster"] |= {"mode": "cluster", "address": "http://127.0.0.1:8265"}
    layout.params.write_text(yaml.safe_dump(values), encoding="utf-8")
    return layout


@pytest.fixture
def job(checkout: Layout) -> Callable[..., Job]:
    """`job("distill", distill={"seed": 1})`: a stage of the checkout, with some params changed."""

    def make(stage: str, **sections: dict[str, Any]) -> Job:
        return Job.of(stage, changed(checkout, **sections), checkout)[0]

    return make


def changed(checkout: Layout, **sections: dict[str, Any]) -> Params:
    values = yaml.safe_load(checkout.params.read_text(encoding="utf-8"))
    for name, section in sections.items():
        values[name] |= section
    checkout.params.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_params(checkout.params)


def submitted(checkout: Layout, stage: str, **sections: dict[str, Any]) -> Storage:
    """A job with its inputs in the storage; returns its folder."""
    job, files = Job.of(stage, changed(checkout, **sections), checkout)
    storage = open_storage(job.storage)
    for file in job.inputs:
        store(storage, file, files[file.path])
    folder = storage / f"jobs/{job.name}-1"
    job.write(folder)
    return folder


@pytest.mark.slow
def test_a_job_is_named_by_what_it_does_and_not_by_where(job: Any, checkout: Layout) -> None:
    name = job("distill").name
    assert name.startswith("kdeov-distill-")
    assert job("distill", cluster={"num_workers": 7, "address": "http://other:8265"}).name == name
    assert job("distill", zero_shot={"bootstrap_samples": 3}).name == name
    assert job("distill", tracking={"uri": "http://mlflow:5000"}).name == name
    other = job("distill", distill={"seed": 1}).name
    assert other != name
    (checkout.root / "out" / "teacher" / "teacher.json").write_text('{"a": 1}', encoding="utf-8")
    assert job("distill").name not in (name, other)


def test_shards_do_not_travel_and_small_inputs_do(job: Any) -> None:
    found = job("zero_shot")
    paths = {file.path for file in found.inputs}
    assert "out/images/train/manifest.json" in paths and "out/student/student.json" in paths
    assert not any(path.endswith(".tar") for path in paths)
    assert "pipeline/evaluation/zero_shot.py" in {file.path for file in found.code}
    assert found.outputs == ["out/evaluation/zero_shot", "metrics/zero_shot.json"]


def test_data_of_prepare_is_the_same_path_everywhere_or_travels(
    job: Any, checkout: Layout, tmp_path: Path
) -> None:
    scenes = job("prepare")  # their description is part of the code
    assert scenes.params["prepare"]["path"] == "pipeline/prepare/sources/scenes.yaml"
    assert scenes.inputs == [] and scenes.outputs == ["out/images"]
    for path in (str(tmp_path / "photos"), "s3://bucket/photos"):
        found = job("prepare", prepare={"path": path})
        assert found.params["prepare"]["path"] == path and found.inputs == []
        assert found.name != scenes.name
    (tmp_path / "photos.address").write_text("s3://bucket/photos", encoding="utf-8")
    found = job("prepare", prepare={"path": str(tmp_path / "photos.address")})
    assert found.params["prepare"]["path"] == found.inputs[0].path == "inputs/path/photos.address"


def test_a_missing_input_is_named(job: Any, checkout: Layout, complains: Any) -> None:
    shutil.rmtree(checkout.student)
    with complains(checkout.student, "dvc repro"):
        job("retrieval")


def test_no_secret_enters_a_job(checkout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    folder = submitted(checkout, "embed", tracking={"uri": "https://me:s3cret@mlflow.org"})
    assert b"s3cret" not in folder.read("job.json")
    assert json.loads(folder.read("job.json"))["params"]["tracking"]["uri"] is None


def test_a_machine_gets_params_inputs_and_code_in_one_folder(
    checkout: Layout, tmp_path: Path
) -> None:
    (tmp_path / "names.json").write_text('{"dog": "hound"}', encoding="utf-8")
    folder = submitted(checkout, "zero_shot", zero_shot={"class_names": "../names.json"})
    root = materialize(folder, tmp_path / "node")
    assert (root / "out" / "student" / "student.json").read_text(encoding="utf-8") == "{}"
    assert (root / "stages" / "zero_shot.py").is_file()
    there, here = load_params(root / "params.yaml"), load_params(checkout.params)
    assert there.distill == here.distill and there.data == here.data
    assert isinstance(there.zero_shot.class_names, Path)
    assert there.zero_shot.class_names.read_text(encoding="utf-8") == '{"dog": "hound"}'
    assert there.prepare.path.name == "scenes.yaml" and there.prepare.path.is_file()


def test_whoever_comes_later_finds_the_folder_there(checkout: Layout, tmp_path: Path) -> None:
    folder = submitted(checkout, "embed")
    root = materialize(folder, tmp_path / "node")
    shutil.rmtree(open_storage(str(tmp_path / "storage")).folder / "blobs")  # type: ignore[operator]
    assert materialize(folder, tmp_path / "node") == root


def test_a_folder_that_is_left_is_not_that_of_a_job_of_the_same_name(
    checkout: Layout, tmp_path: Path
) -> None:
    first = submitted(checkout, "embed")
    left = materialize(first, tmp_path / "node")
    again = submitted(checkout, "embed", cluster={"num_workers": 7})
    root = materialize(again, tmp_path / "node")
    assert again.address == first.address and root != left
    assert load_params(root / "params.yaml").cluster.num_workers == 7
    (root / "stages").unlink()  # an earlier Ray takes its code away
    (root / "stages").symlink_to(tmp_path / "session_of_yesterday")
    assert materialize(again, tmp_path / "node") == root
    assert (root / "stages" / "embed.py").is_file()


def test_processes_that_ask_at_once_get_one_whole_folder(
    checkout: Layout, tmp_path: Path, root: Path
) -> None:
    folder = submitted(checkout, "embed")
    code = """
import sys
from pathlib import Path
from pipeline.runtime.node import materialize
from pipeline.storage.storage import open_storage
root = materialize(open_storage(sys.argv[1]), Path(sys.argv[2]))
print(sorted(map(str, root.rglob("*.json"))), (root / "params.yaml").stat().st_ino)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder.address, str(tmp_path / "node")],
            cwd=root, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(3)
    ]  # fmt: skip
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert len(answers) == 1 and "manifest.json" in answers.pop()


def test_a_damaged_input_is_refused_and_leaves_nothing(
    checkout: Layout, tmp_path: Path, complains: Any
) -> None:
    folder = submitted(checkout, "embed")
    job = Job.read(folder)
    open_storage(job.storage).write(job.inputs[0].blob, b"something else")
    with complains(job.inputs[0].path, "damaged"):
        materialize(folder, tmp_path / "node")
    assert list((tmp_path / "node" / "jobs").iterdir()) == []


def test_a_job_that_is_not_there_is_named(tmp_path: Path, complains: Any) -> None:
    with complains("jobs/kdeov-embed-1/job.json", "missing"):
        materialize(open_storage(str(tmp_path / "jobs" / "kdeov-embed-1")), tmp_path / "node")


def test_outputs_go_back_without_shards(checkout: Layout, tmp_path: Path) -> None:
    folder = submitted(checkout, "embed")
    root = materialize(folder, tmp_path / "node")
    out = root / "out" / "embeddings" / "train"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text('{"a": 1}', encoding="utf-8")
    (out / "000000.tar").write_text("vectors", encoding="utf-8")
    (out / "000001.tar.123.partial").write_text("half", encoding="utf-8")
    job = Job.read(folder)
    (file,) = upload_outputs(job, root)
    assert file.path == "out/embeddings/train/manifest.json"
    assert open_storage(job.storage).read(file.blob) == b'{"a": 1}'
    assert outputs_of(folder) is None


def test_outputs_are_put_in_place_all_or_none(
    checkout: Layout, tmp_path: Path, complains: Any
) -> None:
    folder = submitted(checkout, "zero_shot")
    job = Job.read(folder)
    storage = open_storage(job.storage)
    submission = Submission(job, {}, None, checkout, 1)  # type: ignore[arg-type]
    old = checkout.evaluation / "zero_shot" / "old.csv"
    old.parent.mkdir(parents=True)
    old.write_text("old", encoding="utf-8")
    made = {"out/evaluation/zero_shot/confusion.csv": b"new", "metrics/zero_shot.json": b"[1]"}
    files = [File(name, hashlib.sha256(data).hexdigest()) for name, data in made.items()]
    folder.write("outputs.json", checked_json({"files": [vars(file) for file in files]}))
    storage.write(files[0].blob, made[files[0].path])
    with complains("metrics/zero_shot.json", "missing", "outputs.json"):
        submission.fetch_outputs()
    assert (
        old.read_text(encoding="utf-8") == "old"
        and not (checkout.metrics / "zero_shot.json").exists()
    )
    storage.write(files[1].blob, made[files[1].path])
    submission.fetch_outputs()
    assert {name: (checkout.root / name).read_bytes() for name in made} == made
    assert not old.exists()


def test_workers_share_the_cpus_of_machines_and_none_is_left_without() -> None:
    assert cpus_each([{"CPU": 8}], 3) == 2
    assert cpus_each([{"CPU": 3}, {"CPU": 3}], 1) == 3  # not 6, which no machine has
    assert cpus_each([{"CPU": 1}, {"CPU": 1}, {"CPU": 4}], 2) == 2
    assert cpus_each([{"CPU": 1}], 2) == 0
    assert cpus_each([{"CPU": 16, "GPU": 4}, {"CPU": 4, "GPU": 2}, {"CPU": 64}], 6) == 2


def test_nothing_here_believes_to_be_on_a_cluster() -> None:
    assert JOB not in os.environ


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (
            ["submit", "teacher"],
            1,
            "'teacher' does not run on a cluster; these do: prepare, embed, distill",
        ),
        (["submit", "distill"], 1, "http://127.0.0.1:9;"),
        (["logs", "distill"], 1, "no job of distill was submitted from here"),
        (["status"], 0, "no job was submitted from here"),
        (["cluster", "down"], 0, "no nodes of this checkout are up"),
    ],
)
def test_commands_say_what_is_missing(
    checkout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(checkout.root)
    changed(checkout, cluster={"address": "http://127.0.0.1:9"})
    result = CliRunner().invoke(app, command)
    assert result.exit_code == status and words in result.output
