"""An export as a model of MLflow. MLflow copies this file into the model, beside the folder
`export`, and runs it wherever the model is loaded: with `mlflow`, and `kdeov` without PyTorch.

`SERVED` in `logged_model.py` is raised when this file answers otherwise than before.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image, UnidentifiedImageError

from kdeov.errors import DataError, KdeovError, first_line
from kdeov.runtime.images import FORMATS
from kdeov.runtime.model import Model

EXPORT = Path(__file__).with_name("export")
IMAGE, TEXT = "image", "text"


class ServedModel(PythonModel):
    """Embeds images and texts into one space."""

    def load_context(self, context: PythonModelContext) -> None:
        """Opens the export, which compares itself with PyTorch's outputs."""
        self._model = Model.open(EXPORT)

    def predict(  # type: ignore[override] # MLflow takes it with and without a context
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Embeds N rows.

        Args:
            model_input: Columns `image` (a file of an image in base64) and `text`, of which each
                row has one; a column may be absent.
            params: Of no effect.

        Returns:
            Unit embeddings, float32 [N, D].

        Raises:
            MlflowException: A row has neither or both, or its image cannot be read; a server
                answers 400.
        """
        images, texts = (_cells(model_input, column) for column in (IMAGE, TEXT))
        try:
            if not {IMAGE, TEXT} & set(model_input.columns):
                raise DataError(f"there is no column {IMAGE} and no column {TEXT}; give one")
            for number, (image, text) in enumerate(zip(images, texts, strict=True)):
                if (image is None) == (text is None):
                    raise DataError(f"row {number}: give it either an image or a text")
            rows = np.empty((len(model_input), self._model.embed_dim), np.float32)
            has_image = np.array([image is not None for image in images], bool)
            if has_image.any():
                rows[has_image] = self._model.embed_image(_opened(images))
            if not has_image.all():
                rows[~has_image] = self._model.embed_text([t for t in texts if t is not None])
        except KdeovError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return rows


def _cells(frame: pd.DataFrame, column: str) -> list[str | None]:
    """The texts of a column; None in rows without one, which pandas fills in several ways."""
    if column not in frame.columns:
        return [None] * len(frame)
    return [value if isinstance(value, str) else None for value in frame[column].tolist()]


def _opened(images: Sequence[str | None]) -> Iterator[Image.Image]:
    """Images in base64, one in memory at a time."""
    for number, text in enumerate(images):
        if text is None:
            continue
        content = text.partition(",")[2] if text.startswith("data:") else text  # as browsers write
        try:
            file = io.BytesIO(base64.b64decode(content, validate=True))
            image = Image.open(file, formats=FORMATS)
        except binascii.Error as error:
            raise DataError(f"row {number}: the image is no base64; encode its file") from error
        except UnidentifiedImageError as error:
            known = ", ".join(FORMATS)
            raise DataError(f"row {number}: not an image of {known}; convert it") from error
        except Image.DecompressionBombError as error:
            raise DataError(f"row {number}: too many pixels; reduce the image") from error
        except (OSError, SyntaxError, ValueError, RuntimeError) as error:
            raise DataError(f"row {number}: unreadable image ({first_line(error)})") from error
        with image:
            yield image


set_model(ServedModel())
