"""Brings the MLflow run of a student up to date with the files that the stages wrote.

It reads files alone and can be repeated at any time: after a DVC cache hit, which runs no command,
after `dvc pull`, or after MLflow was down. A run that shows these files already is left as it is.
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

from kdeov.errors import KdeovError
from pipeline.artifacts.run import HISTORY, runs_storage
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.report.results import GROUPS, Results
from pipeline.storage.files import digest, sha256_file, write_json
from pipeline.tracking.mlflow_run import (
    EpochMetrics,
    find_or_create_run,
    log_history,
    log_metrics,
    log_params,
    run_tags,
)
from pipeline.tracking.target import (
    ADDRESS,
    TrackingTarget,
    one_line,
    patience,
    tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PUBLISHED = "kdeov.published"
MODEL = "kdeov.model"  # digest of the weights that were logged last
VIEW = "workflowType=machine_learning"  # without it, the page opens on its GenAI side, empty


def publish(params: Params, layout: Layout) -> str:
    """Publishes the current student; returns the id of its MLflow run.

    Raises:
        KdeovError: A result is missing, or MLflow cannot be reached.
    """
    results = Results.read(params, layout)
    results = replace(results, history=_whole_history(params, layout, results))
    target = TrackingTarget.of(params.tracking, layout)
    record = results.run
    files = _published_files(layout)
    state = digest({str(path.relative_to(layout.root)): sha256_file(path) for path in files})
    try:
        with patience(seconds=10, retries=2):
            client = target.client()
            experiment = target.experiment_id(client)
            run = find_or_create_run(
                client, experiment, record.fingerprint, record.name, run_tags(layout, record)
            )
        with patience(seconds=120, retries=4):  # it is there, and files take their time
            if run.data.tags.get(PUBLISHED) != state:
                _bring_up_to_date(client, target, run, results, layout, files)
                client.set_tag(run.info.run_id, PUBLISHED, state)
                client.set_terminated(run.info.run_id, "FINISHED")
            elif run.info.status != "FINISHED":
                client.set_terminated(run.info.run_id, "FINISHED")
    except tracking_errors() as error:
        raise KdeovError(
            f"MLflow at {target.address} cannot be written ({one_line(error)}); start it and run "
            "`kdeov publish`"
        ) from error
    write_json(
        layout.runs / record.fingerprint / "mlflow.json",
        {"uri": target.address, "experiment": experiment, "run": run.info.run_id},
    )
    logger.info("MLflow run %s is up to date", record.name)
    return run.info.run_id


def _whole_history(params: Params, layout: Layout, results: Results) -> list[EpochMetrics]:
    """With how fast each epoch was and on how many workers, where the run's folder is at hand."""
    try:
        run = runs_storage(params, layout) / results.run.fingerprint
        return json.loads(run.read(HISTORY))
    except (FileNotFoundError, KdeovError):
        return results.history


def publish_or_warn(params: Params, layout: Layout) -> None:
    """Publishes; where MLflow cannot be reached, says so and leaves the files to be published
    later.
    """
    try:
        publish(params, layout)
    except KdeovError as error:
        logger.warning("%s", error)


def run_address(
    layout: Layout, fingerprint: str, host: str = "http://127.0.0.1:5000"
) -> str | None:
    """The page of a published run, or None where it was not published from this checkout."""
    path = layout.runs / fingerprint / "mlflow.json"
    if not path.is_file():
        return None
    where = json.loads(path.read_text())
    base = where["uri"].rstrip("/") if where["uri"].startswith("http") else host
    return f"{base}/#/experiments/{where['experiment']}/runs/{where['run']}?{VIEW}"


def _bring_up_to_date(
    client: MlflowClient,
    target: TrackingTarget,
    run: Run,
    results: Results,
    layout: Layout,
    files: list[Path],
) -> None:
    run_id = run.info.run_id
    for name, value in run_tags(layout, results.run).items():  # a job on a cluster knows no git
        if run.data.tags.get(name) != value:
            client.set_tag(run_id, name, value)
    log_params(client, run, results.run.params)
    log_history(client, run_id, results.history)
    log_metrics(client, run, results.metrics())
    _log_files(client, run_id, files, layout)
    _log_datasets(client, run_id, results, layout)
    weights = sha256_file(layout.student / "student.safetensors")
    if run.data.tags.get(MODEL) != weights:
        _log_model(target, run_id, layout)
        client.set_tag(run_id, MODEL, weights)
    for name, scores in results.evaluations.items():
        tag = f"{scores['protocol_id']} {scores['protocol']}"
        client.set_tag(run_id, f"protocol.{GROUPS.get(name, name)}", tag)
    client.set_tag(run_id, "mlflow.note.content", _description(results))


def _published_files(layout: Layout) -> list[Path]:
    metrics = [*sorted(layout.metrics.glob("*.json")), layout.metrics / "history.csv"]
    report = sorted(path for path in layout.report.parent.rglob("*") if path.is_file())
    return [*metrics, *report, layout.student / "student.safetensors"]


def _log_files(client: MlflowClient, run_id: str, files: list[Path], layout: Layout) -> None:
    for path in files:
        if path.is_relative_to(layout.metrics):
            client.log_artifact(run_id, str(path), "metrics")
        elif path.suffix == ".png":
            client.log_artifact(run_id, str(path), "figures")
        elif path == layout.report:
            client.log_artifact(run_id, str(path), "report")


def _log_datasets(client: MlflowClient, run_id: str, results: Results, layout: Layout) -> None:
    """The splits, with the digest of the manifest that vouches for every shard."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    inputs = []
    for split, context in (("train", "training"), ("val", "validation"), ("test", "testing")):
        manifest = layout.images / split / "manifest.json"
        name, value = f"{results.dataset.name}/{split}", sha256_file(manifest)[:32]
        profile = json.dumps({"samples": results.dataset.samples[split]})
        dataset = Dataset(
            name, value, "local", json.dumps({"uri": manifest.as_uri()}), profile=profile
        )
        inputs.append(DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)]))
    client.log_inputs(run_id, inputs)


def _log_model(target: TrackingTarget, run_id: str, layout: Layout) -> None:
    """The image tower as an exported program with a signature; only MLflow's fluent interface
    logs models.
    """
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    from kdeov.export import ImageTower
    from kdeov.models.model import KDEOVModel

    model = KDEOVModel.load(layout.student, "cpu")
    tower = ImageTower(model.student)
    size = model.transform.size
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        vectors = tower(example)
    with _fluent(target.uri), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch.export's own serialisation
        mlflow.pytorch.log_model(
            tower,
            name="student",
            input_example=example.numpy(),
            signature=infer_signature(example.numpy(), vectors.numpy()),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )


@contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """MLflow's fluent interface at an address, which it would leave behind in the environment, and
    print with its password.
    """
    import mlflow

    names = (ADDRESS, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
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
        f"**{results.run.name}**, a student of {results.run.teacher} on {results.run.dataset}.",
        "",
        f"| test split | {' | '.join(results.columns)} |",
        f"|---|{'---:|' * len(results.columns)}",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in results.table()]
    for remark in results.remarks():
        lines += ["", remark]
    lines += ["", "In brackets: 95% bootstrap intervals. Protocols:", ""]
    lines += [f"- `{line}`" for line in results.protocols()]
    lines += [
        "",
        f"Fingerprint `{results.run.fingerprint}`. Rebuild with `dvc repro`; the page is "
        "among the artifacts: "
        "`report/index.html`.",
    ]
    return "\n".join(lines)
