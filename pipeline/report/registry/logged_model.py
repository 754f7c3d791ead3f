"""The files of a logged model: an export, and the code that serves it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import kdeov
from pipeline.storage.checked import read_checked_json

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

SERVED = 1
"""Version of `served_model.py`; a student is logged again where it is another."""
CODE = Path(__file__).with_name("served_model.py")
EXPORT, CARD = "export", "card.json"  # folder in the logged model; the file that lists the others
DESCRIPTION = "MLmodel"  # the file that MLflow reads first


def write_logged_model(model: LoggedModel, files: Sequence[Path], folder: Path) -> None:
    """Writes the files of a logged model: code without a pickle, a signature, an example, and the
    export in `EXPORT`.

    Args:
        model: Gets the files.
        files: The files of the export, its card among them.
        folder: Where to; it does not exist.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    card = next(path for path in files if path.name == CARD)
    about = read_checked_json(card, "export")
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=False) for name in ("image", "text")
    ]
    embeddings = TensorSpec(np.dtype(np.float32), (-1, about["embed_dim"]))
    description = Model(
        artifact_path=model.artifact_location,
        run_id=model.source_run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
    )
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE),
        mlflow_model=description,
        signature=ModelSignature(Schema(columns), Schema([embeddings])),
        input_example=pd.DataFrame({"image": [_gray_image(about["transform"]["size"])]}),
        pip_requirements=[f"kdeov=={kdeov.__version__}"],
    )
    (folder / EXPORT).mkdir()
    for path in files:
        shutil.copyfile(path, folder / EXPORT / path.name)
    # MLflow writes where this machine has the code, and a size without the export
    description.flavors[mlflow.pyfunc.FLAVOR_NAME]["model_code_path"] = CODE.name
    description.model_size_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    description.save(str(folder / DESCRIPTION))


def _gray_image(size: int) -> str:
    """An image of `size` pixels a side, as served models take it: a file in base64."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), "gray").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
