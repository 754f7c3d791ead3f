"""Publishing: MLflow that is away costs a warning, a wrong address fails before any work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import ConfigError, KdeovError, StorageError
from kdeov.evaluation.bootstrap import values_of
from kdeov.runtime.card import CARD, IMAGE
from kdeov.weights.digests import sha256_file
from pipeline.artifacts.run import RunRecord
from pipeline.compare.comparison import compare
from pipeline.compare.contents import read_run
from pipeline.compare.files import WorkspaceFiles
from pipeline.compare.mlflow_files import find_in_mlflow
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.publish import publish, publish_or_warn
from pipeline.report.registry.comparison import SCORES_TAG, read_scores
from pipeline.report.registry.promote import promote
from pipeline.report.report import report
from pipeline.storage.files import write_json
from pipeline.tracking.target import TrackingTarget
from tests.helpers import ROOT
from tests.helpers.results import edit_json, read_metrics

pytestmark = pytest.mark.slow  # the first of these tests trains

Trained = tuple[Layout, Params]


def away(params: Params) -> Params:
    """Params with an MLflow server that does not answer."""
    tracking = params.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    return params.model_copy(update={"tracking": tracking})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_mlflow_that_is_away_is_a_warning_for_the_stage_and_an_error_for_the_command(
    copied: Trained, log: Any
) -> None:
    paths, params = copied
    report(away(params), paths)
    warnings = [r.getMessage() for r in log.records if r.levelname == "WARNING"]
    assert len([text for text in warnings if "kdeov publish" in text]) == 1
    assert paths.report.is_file()
    with pytest.raises(StorageError, match="kdeov publish"):
        publish(away(params), paths)


def test_a_file_that_cannot_be_used_is_named_with_its_own_cure(
    copied: Trained,
) -> None:
    paths, params = copied
    target = TrackingTarget.of(params.tracking, paths)
    client = target.client()
    client.delete_experiment(target.experiment_id(client))
    with pytest.raises(StorageError) as caught:
        publish(params, paths)
    text = str(caught.value)
    for word in ("mlflow experiments restore", str(paths.tracking_database), "kdeov publish"):
        assert word in text
    assert "start it" not in text and "\n" not in text


def test_publishing_in_a_copy_leaves_every_byte_of_the_original(
    copied: Trained, tmp_path: Path
) -> None:
    paths, params = copied
    publish(params, paths)
    copy = Layout(tmp_path / "copy")
    shutil.copytree(paths.root, copy.root, symlinks=True)
    write_json(copy.metrics / "more.json", {})  # something to publish
    before = {p: p.read_bytes() for p in paths.root.rglob("*") if p.is_file()}
    run = publish(params, copy)
    assert {p: p.read_bytes() for p in paths.root.rglob("*") if p.is_file()} == before
    folder = copy.tracking_artifacts / run / "artifacts" / "metrics"
    assert {p.name for p in folder.iterdir()} == {p.name for p in copy.metrics.iterdir()}
    (model,) = copy.tracking_artifacts.glob("models/*/artifacts/MLmodel")
    exported = {path.name: path.read_bytes() for path in paths.export.iterdir()}
    assert {p.name: p.read_bytes() for p in (model.parent / "export").iterdir()} == exported


def export_again(paths: Layout) -> None:
    """Changes the export, as another run of its stage and of `efficiency` does."""
    edit_json(paths.export / CARD, lambda v: v.update(licenses={"data": "CC0"}))
    measured = sha256_file(paths.export / CARD)
    edit_json(paths.metrics / "efficiency.json", lambda v: v["deployed"].update(card=measured))


def test_a_new_export_is_logged_again_in_the_place_of_the_old_one(copied: Trained) -> None:
    paths, params = copied
    publish(params, paths, as_candidate=False)
    (old,) = paths.tracking_artifacts.glob("models/*")
    export_again(paths)
    run = publish(params, paths, as_candidate=False)
    client = TrackingTarget.of(params.tracking, paths).client()
    (model,) = client.search_logged_models([client.get_run(run).info.experiment_id])
    assert model.model_id != old.name
    card = paths.tracking_artifacts / "models" / model.model_id / "artifacts" / "export" / CARD
    assert card.read_bytes() == (paths.export / CARD).read_bytes()
    assert publish(params, paths, as_candidate=False) == run
    (again,) = client.search_logged_models([client.get_run(run).info.experiment_id])
    assert again.model_id == model.model_id


def test_a_student_is_a_version_once_and_a_new_export_is_a_new_one(copied: Trained) -> None:
    paths, params = copied
    run = publish(params, paths)
    assert publish(params, paths) == run
    client = TrackingTarget.of(params.tracking, paths).client()
    (first,) = client.search_model_versions("name = 'scenes'")
    export_again(paths)
    publish(params, paths)
    versions = client.search_model_versions("name = 'scenes'")
    assert [str(v.version) for v in versions] == ["2", "1"]
    assert {v.run_id for v in versions} == {run}
    assert str(client.get_model_version_by_alias("scenes", "candidate").version) == "2"
    # the model of a version stays, as a server may have it
    models = client.search_logged_models([client.get_run(run).info.experiment_id])
    assert {f"models:/{model.model_id}" for model in models} == {v.source for v in versions}
    assert first.tags["kdeov.fingerprint"] == RunRecord.read(paths.student).fingerprint
    scores = read_scores(first.tags[SCORES_TAG], "")
    assert {"zeroshot/top1", "retrieval/t2i_r1", "detection/all_ap50"} <= scores.keys()
    zero_shot = read_metrics(paths, "zero_shot")
    assert scores["zeroshot/top1"].value == zero_shot["student"]["top1"]
    assert promote(TrackingTarget.of(params.tracking, paths).uri, "scenes").version == "2"


def test_the_stage_publishes_a_run_and_no_candidate(copied: Trained) -> None:
    paths, params = copied
    publish_or_warn(params, paths)
    client = TrackingTarget.of(params.tracking, paths).client()
    assert client.search_runs(["1"]) and not client.search_registered_models()


def test_a_name_in_the_registry_that_is_in_use_is_refused(copied: Trained, complains: Any) -> None:
    paths, params = copied
    TrackingTarget.of(params.tracking, paths).client().create_registered_model("scenes")
    with complains("scenes", "tracking.model"):
        publish(params, paths)
    tracking = params.tracking.model_copy(update={"model": "mine"})
    publish(params.model_copy(update={"tracking": tracking}), paths)


def test_an_export_that_was_not_measured_is_not_published(copied: Trained, complains: Any) -> None:
    paths, params = copied
    edit_json(paths.export / CARD, lambda v: v.update(fingerprint="0" * 16))
    with complains(paths.export / CARD, "dvc repro export efficiency"):
        publish(params, paths)


def test_a_damaged_export_is_not_published(copied: Trained, complains: Any) -> None:
    paths, params = copied
    (paths.export / IMAGE).write_bytes(b"")
    with complains(paths.export / IMAGE, "dvc repro -f export"):
        publish(params, paths)
    assert not [*paths.tracking_artifacts.glob("models/*/artifacts/MLmodel")]


def test_a_missing_result_is_an_error_and_no_warning(copied: Trained) -> None:
    paths, params = copied
    (paths.metrics / "retrieval.json").unlink()
    with pytest.raises(KdeovError, match="dvc repro retrieval"):
        publish_or_warn(params, paths)


def test_a_wrong_address_fails_before_any_work(copied: Trained) -> None:
    paths, params = copied
    tracking = params.tracking.model_copy(update={"uri": "mlruns"})
    with pytest.raises(ConfigError, match="mlruns"):
        report(params.model_copy(update={"tracking": tracking}), paths)
    assert not paths.report.exists()


def test_what_is_published_is_enough_to_compare_the_run_with_another(copied: Trained) -> None:
    paths, params = copied
    shutil.copy(ROOT / "params.yaml", paths.params)  # which says where MLflow is
    published = publish(params, paths, as_candidate=False)
    files, _ = find_in_mlflow(published, paths)
    assert files is not None
    here, there = read_run(WorkspaceFiles(paths.root)), read_run(files)
    comparison = compare(here, there)
    paired = {row.label for row in comparison.metrics if row.verdict == "even"}
    assert {"zero-shot top-5", "linear probe top-1", "text to image, R@10"} <= paired
    for name in ("zero_shot", "linear_probe", "retrieval"):
        evaluated = here.evaluations[name]
        assert evaluated.answers is not None
        values = values_of(evaluated.answers.statistics, evaluated.answers.size)
        assert len(values) >= 2
        assert values == {key: evaluated.scores["student"][key] for key in values}
