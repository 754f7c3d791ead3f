"""Publishes the exported files as the one logged model of a run, which a kill leaves resumable."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.weights.digests import require_sha256
from pipeline.report.registry.logged_model import CARD, SERVED, write_logged_model
from pipeline.storage.checked import fix_of, read_checked_json
from pipeline.storage.files import digest, sha256_file
from pipeline.tracking.registry import MODELS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

EXPORT_TAG = "kdeov.export"  # digest of the export and of what serves it, on a logged model


def publish_model(client: MlflowClient, run: Run, export: Path) -> LoggedModel:
    """Logs an export, in a folder `export`, with the code that serves it to a run that does not
    have it; deletes other models of the run, but for those that the registry has.

    A model is created with the digest of the export, and is READY once its files are whole; a later
    call goes on with one that is not.

    Args:
        client: MLflow's client.
        run: The run.
        export: The folder of the export.

    Returns:
        The model.

    Raises:
        DataError: The export is missing or damaged.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    files = export_files(export)
    content = digest([SERVED, sha256_file(export / CARD)])
    models = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    same = [model for model in models if model.tags.get(EXPORT_TAG) == content]
    same.sort(key=lambda m: (m.status != LoggedModelStatus.READY, m.creation_timestamp, m.model_id))
    if same:
        model = same[0]
    else:
        model = client.create_logged_model(
            run.info.experiment_id,
            name="student",
            source_run_id=run.info.run_id,
            tags={EXPORT_TAG: content},
            params=run.data.params,
        )
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as folder:
            write_logged_model(model, files, Path(folder) / "model")
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if all(output.model_id != model.model_id for output in outputs):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    kept = {model.model_id, *((version.source or "").removeprefix(MODELS) for version in versions)}
    for other in models:
        if other.model_id not in kept:
            client.delete_logged_model(other.model_id)
    return model


def export_files(folder: Path) -> list[Path]:
    """The card of an export and the files that it lists, each compared with its digest.

    Raises:
        DataError: One is missing or damaged.
    """
    card = folder / CARD
    digests: dict[str, str] = read_checked_json(card, "export")["files"]
    for name, sha256 in digests.items():
        require_sha256(folder / name, sha256, card, fix_of("export"))
    return [card, *(folder / name for name in digests)]
