"""Publishes a student's results to its MLflow run.

Publishing reads files alone and can be repeated: after a DVC cache hit, which runs no command,
after `dvc pull`, or after MLflow was down. A run that has these files already stays as it is.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.errors import DataError, KdeovError, StorageError
from kdeov.weights.digests import require_sha256
from pipeline.artifacts.run import read_history, runs_storage
from pipeline.artifacts.step_curve import whole_curve
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.answers import FILE as ANSWERS
from pipeline.report.headline import COLUMNS, headline_metrics
from pipeline.report.publishing.description import describe_run
from pipeline.report.publishing.publish_model import publish_model
from pipeline.report.registry.comparison import SCORES_TAG, write_scores
from pipeline.report.registry.logged_model import CARD
from pipeline.report.registry.scores import scores_of
from pipeline.report.results import MLFLOW_GROUPS, Results
from pipeline.storage.checked import fix_of, read_checked_json, write_checked_json
from pipeline.storage.files import digest, sha256_file
from pipeline.tracking.compat import DATASET_CONTEXT_TAG, DESCRIPTION_TAG, VIEW
from pipeline.tracking.database import locked
from pipeline.tracking.drivers import end_abandoned_runs
from pipeline.tracking.errors import tracking_errors
from pipeline.tracking.mlflow_run import (
    FINGERPRINT_TAG,
    EpochMetrics,
    find_or_create_run,
    log_history,
    log_metrics,
    log_params,
)
from pipeline.tracking.registry import register
from pipeline.tracking.tags import machine_tags, run_tags, set_tags
from pipeline.tracking.target import TrackingTarget, request_limits
from pipeline.tracking.view import UI_HOST, set_view
from pipeline.tracking.watch import Points, log_steps

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

logger = logging.getLogger(__name__)

FORM = 2
"""Version of what a run shows; a run is published again where it is another."""
FILES_TAG = "kdeov.published"  # digest of the files that were published last


def publish(params: Params, paths: Layout, as_candidate: bool = True) -> str:
    """Publishes the current student.

    Args:
        params: Params of the checkout.
        paths: Paths of the checkout.
        as_candidate: Whether its export becomes a version in the registry, under the name
            `tracking.model`, and the candidate there.

    Returns:
        The id of its MLflow run.

    Raises:
        DataError: A result is missing.
        ConfigError: `tracking.uri` is wrong, or the name in the registry belongs to something else.
        StorageError: MLflow cannot be written.
    """
    results = Results.read(params, paths)
    results = replace(results, history=_whole_history(params, paths, results))
    curve = _curve(params, paths, results)
    target = TrackingTarget.of(params.tracking, paths)
    _require_measured_export(results, paths)
    files = _published_files(paths)
    digests = {str(path.relative_to(paths.root)): sha256_file(path) for path in files}
    state = digest({"form": FORM, **digests})
    try:
        with locked(paths.tracking_lock):
            run_id, model = _publish(target, params, results, curve, paths, files, state)
            if as_candidate:
                name = params.tracking.model or results.dataset.name
                _register(target, name, run_id, model, results, paths)
    except tracking_errors() as error:
        reason, cure = target.explain(error)
        raise StorageError(
            f"MLflow at {target.address} cannot be written ({reason}); {cure}, then run "
            "`kdeov publish`"
        ) from error
    logger.info("MLflow run %s is up to date", results.run.name)
    return run_id


def _publish(
    target: TrackingTarget,
    params: Params,
    results: Results,
    curve: Points,
    paths: Layout,
    files: list[Path],
    state: str,
) -> tuple[str, LoggedModel | None]:
    """Brings the run up to date. Each step can be repeated after a kill: it compares what is there
    with what it would write. The digest of the files, `state`, is written last.

    Returns:
        The id of the run; and its model, where it was brought up to date.
    """
    record, model = results.run, None
    tags = run_tags(params, paths, record)
    with request_limits(timeout_s=10, max_retries=2):
        client = target.client()
        experiment = target.experiment_id(client)
        run = find_or_create_run(client, experiment, record.fingerprint, record.name, tags)
    run_id = run.info.run_id
    with request_limits(timeout_s=120, max_retries=4):  # MLflow answers; files take longer
        if run.data.tags.get(FILES_TAG) != state:
            target.require_own_files(run.info.artifact_uri)
            # a job on a cluster has no git checkout, so its tags are set here
            tags |= machine_tags(results.history[-1]) | _protocols(results)
            page = f"#/experiments/{experiment}/runs/{run_id}"
            tags[DESCRIPTION_TAG] = describe_run(results, params, run.data.tags | tags, page)
            log_steps(client, run_id, curve)
            model = _update_run(client, run, tags, results, paths, files)
            client.set_tag(run_id, FILES_TAG, state)
            client.set_terminated(run_id, "FINISHED")
        elif run.info.status != "FINISHED":
            client.set_terminated(run_id, "FINISHED")
        end_abandoned_runs(client, experiment, run)
        set_view(client, experiment, COLUMNS)
    published = {"uri": target.address, "experiment": experiment, "run": run_id}
    write_checked_json(
        paths.published(record.fingerprint), {"fingerprint": record.fingerprint, **published}
    )
    return run_id, model


def _register(
    target: TrackingTarget,
    name: str,
    run_id: str,
    model: LoggedModel | None,
    results: Results,
    paths: Layout,
) -> None:
    """Registers the run's model, with what `kdeov promote` compares."""
    with request_limits(timeout_s=120, max_retries=4):
        client = target.client()
        model = model or publish_model(client, client.get_run(run_id), paths.export)
        tags = {
            FINGERPRINT_TAG: results.run.fingerprint,
            SCORES_TAG: write_scores(scores_of(results)),
            "dataset": results.run.dataset,
            "teacher": results.run.teacher,
        }
        version = register(client, target.uri, name, model, tags)
    logger.info("version %s of the model %s is its candidate", version.version, name)


def _require_measured_export(results: Results, paths: Layout) -> None:
    """Refuses an export other than that of `metrics/efficiency.json`.

    Raises:
        DataError: The export is missing, or another one.
    """
    measured = results.efficiency.get("deployed", {}).get("card")
    by, fix = paths.metrics / "efficiency.json", "run `dvc repro export efficiency`"
    require_sha256(paths.export / CARD, measured, by, fix)


def _whole_history(params: Params, paths: Layout, results: Results) -> list[EpochMetrics]:
    """The history with speed and number of workers; without, if the run's folder is elsewhere."""
    try:
        fingerprint = results.run.fingerprint
        return read_history(runs_storage(params, paths) / fingerprint, fingerprint)
    except (FileNotFoundError, StorageError):
        return results.history


def _curve(params: Params, paths: Layout, results: Results) -> Points:
    """The loss by step; empty, if the run's folder is elsewhere or cannot be read."""
    try:
        return whole_curve(runs_storage(params, paths) / results.run.fingerprint / "steps")
    except KdeovError as error:
        logger.warning("the curve of the loss by step is not published: %s", error)
        return []


def publish_or_warn(params: Params, paths: Layout) -> None:
    """Publishes the current student's run; if MLflow cannot be written, logs a warning instead.
    Only the command `kdeov publish` makes it a candidate, so no ablation becomes one.

    Raises:
        KdeovError: A result is missing, or `tracking.uri` is wrong.
    """
    try:
        publish(params, paths, as_candidate=False)
    except StorageError as error:
        logger.warning("%s", error)


def run_address(
    paths: Layout, fingerprint: str, host: str = f"http://{UI_HOST}:5000"
) -> str | None:
    """The address of a published run's page; None if this checkout did not publish it.

    Args:
        paths: Paths of the checkout.
        fingerprint: Fingerprint of the run.
        host: Address of `kdeov ui`, for runs in a database.

    Raises:
        DataError: The file that says so is damaged or edited.
    """
    path = paths.published(fingerprint)
    if not path.is_file():
        return None
    record = read_checked_json(path, "report")
    if record["fingerprint"] != fingerprint:
        raise DataError(f"{path}: of the run {record['fingerprint']}; {fix_of('report')}")
    base = record["uri"].rstrip("/") if record["uri"].startswith("http") else host
    return f"{base}/#/experiments/{record['experiment']}/runs/{record['run']}?{VIEW}"


def _update_run(
    client: MlflowClient,
    run: Run,
    tags: dict[str, str],
    results: Results,
    paths: Layout,
    files: list[Path],
) -> LoggedModel:
    run_id = run.info.run_id
    log_params(client, run, results.run.params)
    log_history(client, run_id, results.history)
    model = publish_model(client, client.get_run(run_id), paths.export)
    log_metrics(client, run, headline_metrics(results), model)
    _log_files(client, run_id, files, paths)
    _log_datasets(client, run_id, results, paths)
    set_tags(client, run, tags)
    return model


def _protocols(results: Results) -> dict[str, str]:
    """Tags with the protocol of each evaluation."""
    tags = {
        f"protocol.{MLFLOW_GROUPS.get(name, name)}": f"{s['protocol_id']} {s['protocol']}"
        for name, s in results.evaluations.items()
    }
    if results.detection is not None:
        tags["protocol.detection"] = results.detection.protocol()
    return tags


def _published_files(paths: Layout) -> list[Path]:
    metrics = [*sorted(paths.metrics.glob("*.json")), paths.metrics / "history.csv"]
    report = sorted(path for path in paths.report.parent.rglob("*") if path.is_file())
    answers = sorted(paths.evaluation.glob(f"*/{Path(ANSWERS).stem}.*"))  # for `kdeov compare`
    return [*metrics, *report, *answers, paths.export / CARD]


def _log_files(client: MlflowClient, run_id: str, files: list[Path], paths: Layout) -> None:
    for path in files:
        if path.is_relative_to(paths.metrics):
            client.log_artifact(run_id, str(path), "metrics")
        elif path.is_relative_to(paths.evaluation):
            client.log_artifact(run_id, str(path), f"evaluation/{path.parent.name}")
        elif path.suffix == ".png":
            client.log_artifact(run_id, str(path), "figures")
        elif path == paths.report:
            client.log_artifact(run_id, str(path), "report")


def _log_datasets(client: MlflowClient, run_id: str, results: Results, paths: Layout) -> None:
    """Logs the splits, each with the digest of its manifest, which covers every shard."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split, context in (("train", "training"), ("val", "validation"), ("test", "testing")):
        manifest = paths.images / split / "manifest.json"
        name, value = f"{results.dataset.name}/{split}", sha256_file(manifest)[:32]
        profile = json.dumps({"samples": results.dataset.samples[split]})
        dataset = Dataset(
            name, value, "local", json.dumps({"uri": manifest.as_uri()}), profile=profile
        )
        inputs.append(DatasetInput(dataset, [InputTag(DATASET_CONTEXT_TAG, context)]))
    client.log_inputs(run_id, inputs)
