"""The files of a logged model: an export, and the code that serves it."""

from __future__ import annotations

import base64
import io
import json
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
TEXTS = "texts.json"  # of an export that looks texts up
EXAMPLE_TEXT = "a photo of a dog"


def write_logged_model(model: LoggedModel, files: Sequence[Path], folder: Path) -> None:
    """Writes the files of a logged model: code without a pickle, a signature, an example, and the
    export in `EXPORT`.

    Args:
        model: Gets the files.
        files: The files of the export, its card among them.
        folder: Where to; it does not exist.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    card = next(path for path in files if path.name == CARD)
    about = read_checked_json(card, "export")
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=False) for name in ("image", "text")
    ]
    embeddings = TensorSpec(np.dtype(np.float32), (-1, about["embed_dim"]))
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        signature=ModelSignature(Schema(columns), Schema([embeddings])),
        input_example=_example(about["transform"]["size"], card.parent),
        pip_requirements=[f"kdeov=={kdeov.__version__}"],
    )
    (folder / EXPORT).mkdir()
    for path in files:
        shutil.copyfile(path, folder / EXPORT / path.name)


def _example(size: int, export: Path) -> object:
    """Two rows: a gray image of `size` pixels a side, and a text that the export can embed."""
    import pandas as pd

    file = io.BytesIO()
    Image.new("RGB", (size, size), "gray").save(file, "PNG")
    text = EXAMPLE_TEXT
    if (table := export / TEXTS).is_file():
        text = json.loads(table.read_text(encoding="utf-8"))[0]
    image = base64.b64encode(file.getvalue()).decode()
    return pd.DataFrame({"image": [image, None], "text": [None, text]})
