"""Publishes a student's results to its MLflow run.

Publishing reads files alone and can be repeated: after a DVC cache hit, which runs no command,
after `dvc pull`, or after MLflow was down. A run that has these files already stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.errors import DataError, StorageError
from pipeline.artifacts.run import read_history, runs_storage
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.results import MLFLOW_GROUPS, Results
from pipeline.storage.checked import fix_of, read_checked_json, write_checked_json
from pipeline.storage.files import digest, sha256_file
from pipeline.tracking.compat import DATASET_CONTEXT_TAG, DESCRIPTION_TAG, VIEW
from pipeline.tracking.mlflow_run import (
    EpochMetrics,
    find_or_create_run,
    log_history,
    log_metrics,
    log_params,
    run_tags,
)
from pipeline.tracking.target import (
    URI_VARIABLE,
    TrackingTarget,
    one_line,
    request_limits,
    tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FILES_TAG = "kdeov.published"  # digest of the files that were published last
MODEL_TAG = "kdeov.model"  # digest of the weights that were logged last


def publish(params: Params, paths: Layout) -> str:
    """Publishes the current student; returns the id of its MLflow run.

    Raises:
        DataError: A result is missing.
        ConfigError: `tracking.uri` is wrong.
        StorageError: MLflow cannot be written.
    """
    results = Results.read(params, paths)
    results = replace(results, history=_whole_history(params, paths, results))
    target = TrackingTarget.of(params.tracking, paths)
    record = results.run
    files = _published_files(paths)
    state = digest({str(path.relative_to(paths.root)): sha256_file(path) for path in files})
    try:
        with request_limits(timeout_s=10, max_retries=2):
            client = target.client()
            experiment = target.experiment_id(client)
            run = find_or_create_run(
                client, experiment, record.fingerprint, record.name, run_tags(paths, record)
            )
        with request_limits(timeout_s=120, max_retries=4):  # MLflow answers; files take longer
            if run.data.tags.get(FILES_TAG) != state:
                _update_run(client, target, run, results, paths, files)
                client.set_tag(run.info.run_id, FILES_TAG, state)
                client.set_terminated(run.info.run_id, "FINISHED")
            elif run.info.status != "FINISHED":
                client.set_terminated(run.info.run_id, "FINISHED")
    except tracking_errors() as error:
        raise StorageError(
            f"MLflow at {target.address} cannot be written ({one_line(error)}); start it, then run "
            "`kdeov publish`"
        ) from error
    write_checked_json(
        paths.runs / record.fingerprint / "mlflow.json",
        {
            "fingerprint": record.fingerprint,
            "uri": target.address,
            "experiment": experiment,
            "run": run.info.run_id,
        },
    )
    logger.info("MLflow run %s is up to date", record.name)
    return run.info.run_id


def _whole_history(params: Params, paths: Layout, results: Results) -> list[EpochMetrics]:
    """The history with speed and number of workers; without, if the run's folder is elsewhere."""
    try:
        fingerprint = results.run.fingerprint
        return read_history(runs_storage(params, paths) / fingerprint, fingerprint)
    except (FileNotFoundError, StorageError):
        return results.history


def publish_or_warn(params: Params, paths: Layout) -> None:
    """Publishes the current student; if MLflow cannot be written, logs a warning instead.

    Raises:
        KdeovError: A result is missing, or `tracking.uri` is wrong.
    """
    try:
        publish(params, paths)
    except StorageError as error:
        logger.warning("%s", error)


def run_address(paths: Layout, fingerprint: str, host: str = "http://127.0.0.1:5000") -> str | None:
    """The address of a published run's page; None if this checkout did not publish it.

    Args:
        paths: Paths of the checkout.
        fingerprint: Fingerprint of the run.
        host: Address of `kdeov ui`, for runs in a database.

    Raises:
        DataError: The file that says so is damaged or edited.
    """
    path = paths.runs / fingerprint / "mlflow.json"
    if not path.is_file():
        return None
    record = read_checked_json(path, "report")
    if record["fingerprint"] != fingerprint:
        raise DataError(f"{path}: of the run {record['fingerprint']}; {fix_of('report')}")
    base = record["uri"].rstrip("/") if record["uri"].startswith("http") else host
    return f"{base}/#/experiments/{record['experiment']}/runs/{record['run']}?{VIEW}"


def _update_run(
    client: MlflowClient,
    target: TrackingTarget,
    run: Run,
    results: Results,
    paths: Layout,
    files: list[Path],
) -> None:
    run_id = run.info.run_id
    for name, value in run_tags(
        paths, results.run
    ).items():  # a job on a cluster has no git checkout
        if run.data.tags.get(name) != value:
            client.set_tag(run_id, name, value)
    log_params(client, run, results.run.params)
    log_history(client, run_id, results.history)
    log_metrics(client, run, results.metrics())
    _log_files(client, run_id, files, paths)
    _log_datasets(client, run_id, results, paths)
    weights = sha256_file(paths.student / "student.safetensors")
    if run.data.tags.get(MODEL_TAG) != weights:
        _log_model(target, run_id, paths)
        client.set_tag(run_id, MODEL_TAG, weights)
    for name, scores in results.evaluations.items():
        tag = f"{scores['protocol_id']} {scores['protocol']}"
        client.set_tag(run_id, f"protocol.{MLFLOW_GROUPS.get(name, name)}", tag)
    client.set_tag(run_id, DESCRIPTION_TAG, _description(results))


def _published_files(paths: Layout) -> list[Path]:
    metrics = [*sorted(paths.metrics.glob("*.json")), paths.metrics / "history.csv"]
    report = sorted(path for path in paths.report.parent.rglob("*") if path.is_file())
    return [*metrics, *report, paths.student / "student.safetensors"]


def _log_files(client: MlflowClient, run_id: str, files: list[Path], paths: Layout) -> None:
    for path in files:
        if path.is_relative_to(paths.metrics):
            client.log_artifact(run_id, str(path), "metrics")
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


def _log_model(target: TrackingTarget, run_id: str, paths: Layout) -> None:
    """Logs the image tower with a signature. Only MLflow's fluent interface logs models."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    from kdeov.export import ImageTower
    from kdeov.models.model import KDEOVModel

    model = KDEOVModel.load(paths.student, "cpu")
    tower = ImageTower(model.student)
    size = model.transform.size
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        embeddings = tower(example)
    with _fluent(target.uri), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised by torch.export's serialization
        mlflow.pytorch.log_model(
            tower,
            name="student",
            input_example=example.numpy(),
            signature=infer_signature(example.numpy(), embeddings.numpy()),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )


@contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """Sets the address of MLflow's fluent interface, and restores the environment afterwards.
    MLflow would leave the address in the environment and print it with its password.
    """
    import mlflow

    names = (URI_VARIABLE, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[1]] = "true"
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _description(results: Results) -> str:
    lines = [
        f"**{results.run.name}**: {results.run.teacher}, distilled on {results.run.dataset}.",
        "",
        f"| test split | {' | '.join(results.columns)} |",
        f"|---|{'---:|' * len(results.columns)}",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in results.table()]
    for remark in results.remarks():
        lines += ["", remark]
    lines += ["", "In brackets: 95% bootstrap intervals over the test images. Protocols:", ""]
    lines += [f"- `{line}`" for line in results.protocols()]
    lines += [
        "",
        f"Fingerprint `{results.run.fingerprint}`. `dvc repro` rebuilds the run. The report is the "
        "artifact `report/index.html`.",
    ]
    return "\n".join(lines)
