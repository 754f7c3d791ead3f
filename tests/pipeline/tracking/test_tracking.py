"""MLflow has one run a fingerprint, and its absence loses nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kdeov.errors import KdeovError
from pipeline.artifacts.run import RunRecord
from pipeline.config.execution_params import TrackingParams
from pipeline.config.params import Params, flatten
from pipeline.config.paths import Layout
from pipeline.tracking.errors import one_line
from pipeline.tracking.mlflow_run import (
    FINGERPRINT_TAG,
    EpochMetrics,
    LiveTracker,
    epoch_metrics,
    find_or_create_run,
    log_history,
)
from pipeline.tracking.target import TrackingTarget, live_target

pytestmark = pytest.mark.slow  # the first of these tests trains


@pytest.fixture(scope="module")
def target(trained: tuple[Layout, Params], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The database that `distill` made, under another experiment of this module's own."""
    database = trained[0].tracking_database
    artifacts = tmp_path_factory.mktemp("artifacts").as_uri()
    return TrackingTarget(f"sqlite:///{database}", "tests", artifacts)


def row(epoch: int, **more: float) -> EpochMetrics:
    return {"epoch": epoch, "train_total": 1 / epoch, "val_cosine": 0.5, "workers": 2, **more}


def runs(target: TrackingTarget, fingerprint: str) -> list[Run]:
    client = target.client()
    experiment = target.experiment_id(client)
    return client.search_runs([experiment], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")


def steps(client: MlflowClient, run: Run, name: str = "train/total") -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, name))


def tracker(target: TrackingTarget, fingerprint: str) -> LiveTracker:
    return LiveTracker(target, fingerprint, f"run-{fingerprint}", {"a": {"b": 1}}, {"kind": "test"})


def test_distill_leaves_one_run_with_one_point_an_epoch(trained: tuple[Layout, Params]) -> None:
    paths, params = trained
    record = RunRecord.read(paths.student)
    target = TrackingTarget.of(params.tracking, paths)
    (run,) = runs(target, record.fingerprint)
    client = target.client()
    for name in ("train/total", "train/feature", "val/cosine", "train/learning_rate"):
        assert steps(client, run, name) == [1, 2]
    assert run.info.run_name == record.name
    assert run.data.params["distill.epochs"] == "2"
    assert run.data.params["distill.losses.feature"] == "1.0"
    assert run.data.tags["dataset"] == "scenes"


def test_history_is_logged_once_however_often_it_is_passed(target: TrackingTarget) -> None:
    client = target.client()
    experiment = target.experiment_id(client)
    for known in ([row(1)], [row(1), row(2)], [row(1), row(2)], [row(2), row(3)]):
        run = find_or_create_run(client, experiment, "f" * 16, "name", {})
        log_history(client, run.info.run_id, known)
    (run,) = runs(target, "f" * 16)
    assert steps(client, run) == steps(client, run, "val/cosine") == [1, 2, 3]


def test_a_run_taken_up_again_is_the_same_run_and_runs_again(target: TrackingTarget) -> None:
    first = tracker(target, "a" * 16)
    first.start()
    first.log_epoch(row(1))
    client = target.client()
    (run,) = runs(target, "a" * 16)
    client.set_terminated(run.info.run_id, "FAILED")
    travelled: LiveTracker = pickle.loads(pickle.dumps(first))
    for again in (tracker(target, "a" * 16), travelled):
        again.start()
        again.log_epoch(row(1))
        again.log_epoch(row(2))
    (run,) = runs(target, "a" * 16)
    assert steps(client, run) == [1, 2]
    assert run.info.status == "RUNNING"
    assert (run.data.params, run.data.tags["kind"]) == ({"a.b": "1"}, "test")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_that_an_error_leaves_is_shown_as_such_and_goes_on_later(
    target: TrackingTarget, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), tracker(target, status) as live:
        live.log_epoch(row(1))
        raise error
    (run,) = runs(target, status)
    assert (run.info.status, steps(target.client(), run)) == (status, [1])
    with tracker(target, status) as live:
        live.log_epoch(row(2))
    (run,) = runs(target, status)
    assert (run.info.status, steps(target.client(), run)) == ("RUNNING", [1, 2])


def test_another_fingerprint_is_another_run(target: TrackingTarget) -> None:
    for fingerprint in ("b" * 16, "c" * 16):
        tracker(target, fingerprint).start()
    (one,), (two,) = runs(target, "b" * 16), runs(target, "c" * 16)
    assert one.info.run_id != two.info.run_id


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns"])
def test_a_folder_of_files_is_refused_with_the_cure(
    built: Layout, complains: Any, uri: str
) -> None:
    with complains(repr(uri), "mlflow migrate-filestore"):
        TrackingTarget.of(TrackingParams(uri=uri), built)


@pytest.mark.parametrize("uri", ["host:5000", "127.0.0.1:5000/", "anna:hush@host:5000"])
def test_a_server_without_a_scheme_is_no_folder(built: Layout, complains: Any, uri: str) -> None:
    with complains(f"'{(host := uri.rpartition('@')[2])}' has no scheme; give http://{host}"):
        TrackingTarget.of(TrackingParams(uri=uri), built)


def test_the_database_of_this_checkout_is_the_default_and_the_environment_wins(
    built: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = TrackingTarget.of(TrackingParams(), built)
    assert default.uri == f"sqlite:///{built.root}/work/mlflow/mlflow.db"
    named = TrackingParams(uri="http://named:5000")
    assert TrackingTarget.of(named, built).uri == "http://named:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert TrackingTarget.of(named, built).uri == "http://environment:5000"


@pytest.mark.parametrize(
    "uri", ["mlruns", "htp://host", "sqlite://", "postgresql://host:PORT/runs"]
)
def test_a_wrong_address_is_looked_for_where_it_is_given(
    built: Layout, monkeypatch: pytest.MonkeyPatch, complains: Any, uri: str
) -> None:
    with complains("tracking.uri"):
        TrackingTarget.of(TrackingParams(uri=uri), built)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}\r\n")
    with complains("MLFLOW_TRACKING_URI"):
        TrackingTarget.of(TrackingParams(), built)


def test_spaces_around_an_address_are_no_part_of_it(
    built: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in ("http://named:5000", f"sqlite:///{built.root}/runs.db", "databricks"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f" {uri}\r\n")  # of a file made on Windows
        assert TrackingTarget.of(TrackingParams(), built).uri == uri


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("postgresql+pg8000://anna:hush@host/runs", ("package pg8000",)),
        ("postgre://anna:hush@host/runs", ("postgresql://",)),
        ("htp://anna:hush@host", ("http://HOST:5000",)),
        ("postgresql://anna:hush@host:PORT/runs", ("'PORT'", "postgresql://HOST/NAME")),
    ],
)
def test_an_address_without_a_driver_is_refused_and_shown_without_its_login(
    built: Layout, uri: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(KdeovError) as caught:
        TrackingTarget.of(TrackingParams(uri=uri), built)
    text = str(caught.value)
    assert all(word in text for word in words) and "://host" in text
    assert "hush" not in text and "anna" not in text and "\n" not in text


def test_a_database_keeps_files_in_the_checkout_and_a_server_its_own(built: Layout) -> None:
    folder = (built.root / "work" / "mlflow" / "artifacts").as_uri()
    for uri in (None, "sqlite:////elsewhere/runs.db", "postgresql://host/runs"):
        target = TrackingTarget.of(TrackingParams(uri=uri), built)
        assert (target.artifacts, target.is_server) == (folder, False)
    target = TrackingTarget.of(TrackingParams(uri="https://host"), built)
    assert (target.artifacts, target.is_server) == (None, True)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://anna:hush@host:5000/mlflow", "http://host:5000/mlflow"),
        ("postgresql://anna:hu@sh@host/runs", "postgresql://host/runs"),
        ("postgresql://host/runs?user=anna&password=hush", "postgresql://host/runs?user=anna&"),
        ("sqlite:////work/mlflow.db", "sqlite:////work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_login(uri: str, address: str) -> None:
    assert TrackingTarget(uri, "tests", None).address == address


def test_a_cluster_logs_epochs_to_a_server_and_not_to_a_file_of_the_checkout(
    params: Params, built: Layout, log: Any
) -> None:
    cluster = params.cluster.model_copy(update={"mode": "cluster"})
    there = params.model_copy(update={"cluster": cluster})
    assert live_target(there, built) is None and "tracking.uri" in log.text
    LiveTracker(None, "f" * 16, "run", {}, {}).log_epoch(row(1))  # no target: not an error
    tracking = TrackingParams(uri="http://host:5000")
    server = live_target(there.model_copy(update={"tracking": tracking}), built)
    assert server is not None and server.uri == "http://host:5000"
    assert live_target(params, built) is not None


def test_a_dead_server_costs_one_warning_and_little_time(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETRIES", "TIMEOUT"):  # put back what the client sets
        name = f"MLFLOW_HTTP_REQUEST_{'MAX_' if name == 'RETRIES' else ''}{name}"
        monkeypatch.setenv(name, "1")
    lost = tracker(TrackingTarget("http://127.0.0.1:9", "tests", None), "d" * 16)
    lost.start()
    for epoch in (1, 2, 3):
        lost.log_epoch(row(epoch))
    (warning,) = [record for record in log.records if record.levelname == "WARNING"]
    text = warning.getMessage()
    assert "http://127.0.0.1:9" in text and "kdeov publish" in text and "\n" not in text


def test_a_database_that_cannot_be_opened_costs_one_warning(tmp_path: Path, log: Any) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    lost = tracker(TrackingTarget(uri, "tests", None), "e" * 16)
    lost.start()
    lost.log_epoch(row(1))
    assert [r.levelname for r in log.records] == ["WARNING"]


def test_an_error_is_one_line_even_without_a_text() -> None:
    assert one_line(OSError("first\nsecond")) == "first"
    assert one_line(OSError()) == "OSError"


def test_metrics_get_names_that_the_page_groups() -> None:
    assert epoch_metrics(row(3, learning_rate=0.1)) == {
        "train/total": 1 / 3,
        "val/cosine": 0.5,
        "workload/workers": 2,
        "train/learning_rate": 0.1,
    }


def test_nested_params_get_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [1]}) == {
        "a.b.c": 1,
        "a.d": None,
        "e": [1],
    }
