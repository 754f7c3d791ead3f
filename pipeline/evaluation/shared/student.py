"""The trained student of a checkout."""

from __future__ import annotations

import torch

from kdeov.errors import DataError
from kdeov.models.model import KDEOVModel
from pipeline.config.paths import Layout
from pipeline.storage.checked import fix_of


def student_of(paths: Layout, device: str | torch.device) -> KDEOVModel:
    """Loads `out/student`.

    Raises:
        DataError: Its files are missing or damaged; names the stage that makes them.
    """
    try:
        return KDEOVModel.load(paths.student, device)
    except DataError as error:
        cause, _, _ = str(error).rpartition("; ")  # the cure is another where a stage wrote it
        raise DataError(f"{cause}; {fix_of('distill')}") from error
