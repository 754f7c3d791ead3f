"""MLflow's database: of any name, made whole, with files that follow the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.storage.files import sha256_file
from pipeline.tracking.database import ARTIFACTS, sqlite_file, sqlite_uri
from pipeline.tracking.errors import TrackingError
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.target import TrackingTarget
from tests.helpers.mlflow_databases import deleted, half_made, newer, older
from tests.helpers.mlflow_runs import row

NAMES = [
    "50%20off", "100%", "%2F", "a#b", "why?", "two words", "été 北京", "a&b;c=d", "x@y:z", "a+b",
    "~home", "[1]", "'quoted\"", "back\\slash", "$HOME",
]  # fmt: skip
"""Folders whose name means something else in a URI, or in a shell."""


def of(root: Path, uri: str | None = None) -> TrackingTarget:
    return TrackingTarget.of(TrackingParams(uri=uri), Layout(root))


def with_a_file(target: TrackingTarget, folder: Path) -> tuple[MlflowClient, str]:
    """A run with one file."""
    client = target.client()
    run = client.create_run(target.experiment_id(client)).info.run_id
    log_file(client, run, folder)
    return client, run


def log_file(client: MlflowClient, run: str, folder: Path, name: str = "first.txt") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(name, encoding="utf-8")
    client.log_artifact(run, str(folder / name), "files")


def files(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkout_of_any_name_has_its_database_and_its_files(
    tmp_path: Path, with_database: Any, name: str
) -> None:
    root = tmp_path / "checkouts" / name
    target = with_database(root)
    assert target.file == sqlite_file(target.uri) == Layout(root).tracking_database
    _, run = with_a_file(target, tmp_path / "elsewhere")
    assert (root / "work/mlflow/artifacts" / run / "artifacts/files/first.txt").is_file()
    (found,) = list_artifacts(run_id=run, artifact_path="files", tracking_uri=target.uri)
    assert found.path == "files/first.txt"
    assert [path.name for path in (tmp_path / "checkouts").iterdir()] == [name]
    assert {path.name for path in root.parent.parent.iterdir()} == {"checkouts", "elsewhere"}


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///runs.db", "runs.db"),
        ("sqlite:///a/../b/runs.db", "b/runs.db"),
        ("sqlite+pysqlite:///runs.db", "runs.db"),
        ("sqlite:///50%2520off.db", "50%20off.db"),
    ],
)
def test_a_file_of_params_lies_in_the_checkout_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, file: str
) -> None:
    monkeypatch.chdir("/")
    assert of(tmp_path, uri).file == tmp_path / file


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:",
                                 "sqlite:///file:runs.db?uri=true"])  # fmt: skip
def test_a_database_that_is_no_file_is_refused(tmp_path: Path, complains: Any, uri: str) -> None:
    with complains("tracking.uri", "sqlite:////"):
        of(tmp_path, uri)


def test_a_folder_or_a_device_is_no_database(tmp_path: Path, complains: Any) -> None:
    for uri in (f"sqlite:///{tmp_path}/", "sqlite:////dev/full"):
        with complains("tracking.uri", uri, "name a file"):
            of(tmp_path, uri)


def test_the_home_folder_is_that_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert of(tmp_path / "checkout", "sqlite:///~/runs.db").file == tmp_path / "home/runs.db"
    assert (
        of(tmp_path / "checkout", "sqlite:///a~/runs.db").file == tmp_path / "checkout/a~/runs.db"
    )


def test_a_link_that_leads_nowhere_is_named_and_stays(tmp_path: Path) -> None:
    file = Layout(tmp_path).tracking_database
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "unmounted" / "mlflow.db")
    with pytest.raises(TrackingError, match=r"unmounted/mlflow\.db, which is missing; mount"):
        of(tmp_path).client()
    assert file.is_symlink() and not (tmp_path / "unmounted").exists()


def test_a_copied_checkout_writes_its_own_files_and_none_of_the_original(
    tmp_path: Path, with_database: Any
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy of it, 50%20off"
    _, run = with_a_file(with_database(original), tmp_path / "elsewhere")
    shutil.copytree(original, copy)
    before = files(original)
    client = of(copy).client()
    log_file(client, run, tmp_path / "elsewhere", "second.txt")
    assert files(original) == before
    own = copy / "work/mlflow/artifacts" / run / "artifacts/files"
    assert {path.name for path in own.iterdir()} == {"first.txt", "second.txt"}
    _, other = with_a_file(of(copy), tmp_path / "elsewhere")
    assert (copy / "work/mlflow/artifacts" / other).is_dir() and files(original) == before


def test_a_moved_checkout_keeps_its_files_and_does_not_make_the_old_place_anew(
    tmp_path: Path, with_database: Any
) -> None:
    _, run = with_a_file(with_database(tmp_path / "old"), tmp_path / "elsewhere")
    (tmp_path / "old").rename(tmp_path / "new")
    target = of(tmp_path / "new")
    log_file(target.client(), run, tmp_path / "elsewhere", "second.txt")
    found = list_artifacts(run_id=run, artifact_path="files", tracking_uri=target.uri)
    assert {file.path for file in found} == {"files/first.txt", "files/second.txt"}
    assert not (tmp_path / "old").exists()


def test_a_place_that_somebody_chose_stays(tmp_path: Path, with_database: Any) -> None:
    target = with_database(tmp_path / "old")
    chosen = (tmp_path / "chosen").as_uri()
    client = target.client()
    client.create_experiment("kdeov", artifact_location=chosen)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = of(tmp_path / "new")
    found = moved.client().get_experiment(moved.experiment_id(moved.client()))
    assert found.artifact_location == chosen
    moved.require_own_files(f"{chosen}/run/artifacts")


def test_files_of_a_shared_database_are_not_written_into_another_checkout(
    tmp_path: Path, complains: Any
) -> None:
    shared = sqlite_uri(tmp_path / "shared.db")
    one, two = (of(tmp_path / name, shared) for name in ("one", "two"))
    assert one.artifacts and two.artifacts and not two.is_own
    with complains(tmp_path / "one", "tracking.experiment", "mlflow server"):
        two.require_own_files(f"{one.artifacts}/run/artifacts")
    two.require_own_files(f"{two.artifacts}/run/artifacts")
    two.require_own_files("s3://bucket/work/mlflow/artifacts/run/artifacts")
    # the database of another checkout, named on purpose, keeps its files beside it
    named = of(tmp_path / "two", one_database := sqlite_uri(Layout(tmp_path).tracking_database))
    assert named.artifacts == (tmp_path / ARTIFACTS[1:]).as_uri() and not named.is_own
    assert named.uri == one_database


@pytest.mark.parametrize("place", [".dvc/tmp/exps/standalone/tmp1", ".dvc/tmp/exps/tmp1",
                                   "work/ablations/1234567/name/checkout"])  # fmt: skip
def test_a_copy_that_is_deleted_after_its_run_uses_the_database_of_its_checkout(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "dvc.yaml").touch()
    copy = tmp_path / place
    copy.mkdir(parents=True)
    (copy / "dvc.yaml").touch()
    assert of(copy) == of(tmp_path) and of(copy).is_own
    assert of(copy, "sqlite:///runs.db").file == tmp_path / "runs.db"
    assert Layout(copy).published("f") == Layout(tmp_path).published("f")
    assert Layout(copy).student.is_relative_to(copy)
    (tmp_path / "dvc.yaml").unlink()  # no checkout of this project
    assert Layout(copy).home == copy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (half_made, ["half made", "delete {file}"]),
        (older, ["mlflow db upgrade sqlite:///{file}", "copy {file}"]),
        (newer, ["newer MLflow", "install"]),
        (deleted, ["mlflow experiments restore --experiment-id 1", "tracking.experiment"]),
    ],
)
def test_a_database_that_cannot_be_used_is_named_with_its_cure_and_stays_as_it_is(
    tmp_path: Path, with_database: Any, log: Any, damage: Any, words: list[str]
) -> None:
    file = with_database(tmp_path / "checkout").file
    damage(file)
    before = file.read_bytes()
    target = of(tmp_path / "checkout")
    with pytest.raises(TrackingError) as caught:
        target.experiment_id(target.client())
    live = LiveTracker(target, "f" * 16, "run", {}, {})
    live.start()
    live.log_epochs([row(1)])
    (record,) = log.records
    for text in (str(caught.value), record.getMessage()):
        assert "\n" not in text
        for word in words:
            assert word.format(file=file) in text
    assert "kdeov publish" in record.getMessage() and file.read_bytes() == before
