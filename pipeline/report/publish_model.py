"""Publishes the image tower and the exported files as the one logged model of a run, which a kill
leaves resumable.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from kdeov.weights.digests import require_sha256
from pipeline.config.paths import Layout
from pipeline.storage.checked import fix_of, read_checked_json
from pipeline.storage.files import digest, sha256_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

WEIGHTS_TAG = "kdeov.weights"  # digest of the student's weights and its export, on a logged model
WEIGHTS = "student.safetensors"
EXPORT, CARD = "export", "card.json"  # folder in the logged model; the file that lists the others


def publish_model(client: MlflowClient, run: Run, paths: Layout) -> LoggedModel:
    """Logs the student's image tower and, in a folder `export`, the files of `out/export` to a run,
    if the run does not have them; deletes other models.

    A model is created with the digest of its weights and of the export, and is READY once its files
    are whole; a later call goes on with one that is not.

    Args:
        client: MLflow's client.
        run: The run.
        paths: Paths of the checkout.

    Returns:
        The model.

    Raises:
        DataError: The export is missing or damaged.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    files = export_files(paths.export)
    weights = digest([sha256_file(p) for p in (paths.student / WEIGHTS, paths.export / CARD)])
    models = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    same = [model for model in models if model.tags.get(WEIGHTS_TAG) == weights]
    same.sort(key=lambda m: (m.status != LoggedModelStatus.READY, m.creation_timestamp, m.model_id))
    if same:
        model = same[0]
    else:
        model = client.create_logged_model(
            run.info.experiment_id,
            name="student",
            source_run_id=run.info.run_id,
            tags={WEIGHTS_TAG: weights},
            params=run.data.params,
        )
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as folder:
            _save(model, run, paths.student, Path(folder) / "model")
            (Path(folder) / "model" / EXPORT).mkdir()
            for path in files:
                shutil.copyfile(path, Path(folder) / "model" / EXPORT / path.name)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if all(output.model_id != model.model_id for output in outputs):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    for other in models:
        if other.model_id != model.model_id:
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


def _save(model: LoggedModel, run: Run, student: Path, folder: Path) -> None:
    """Writes the files of a logged model, with a signature."""
    import mlflow.pytorch
    import torch
    from mlflow.models import Model, infer_signature

    from kdeov.export.tower import ImageTower
    from kdeov.models.model import KDEOVModel

    kdeov = KDEOVModel.load(student, "cpu")
    tower = ImageTower(kdeov.student)
    size = kdeov.transform.size
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        embeddings = tower(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised by torch.export's serialization
        mlflow.pytorch.save_model(
            tower,
            folder,
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run.info.run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
            input_example=example.numpy(),
            signature=infer_signature(example.numpy(), embeddings.numpy()),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )
