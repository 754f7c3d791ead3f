"""The files of `metrics/`, which git keeps and people edit: compared with their digests and the run
when they are read.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import CURVE, RunRecord
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import ABSENT_KEY
from pipeline.storage.checked import fix_of, read_checked_json


def read_scores(dataset: Dataset, run: RunRecord, paths: Layout, name: str) -> dict[str, Any]:
    """Metrics of a data set in the file of an evaluation; empty if the file is.

    Raises:
        DataError: The file is missing, damaged or edited, or of another run or data set.
    """
    path = paths.metrics / f"{name}.json"
    found = read_checked_json(path, name)
    if found and dataset.name not in found:
        raise DataError(f"{path}: no metrics of {dataset.name}; run `dvc repro {name}`")
    scores: dict[str, Any] = found.get(dataset.name, {})
    if scores and ABSENT_KEY not in scores:
        _require_run(run, path, scores, name)
    return scores


def read_metrics(run: RunRecord, paths: Layout, name: str) -> dict[str, Any]:
    """Metrics in the file of a stage that writes one mapping.

    Raises:
        DataError: The file is missing, damaged or edited, or of another run.
    """
    path = paths.metrics / f"{name}.json"
    values = read_checked_json(path, name)
    run.require(path, paths.student)
    _require_run(run, path, values, name)
    return values


def read_curve(run: RunRecord, paths: Layout) -> list[dict[str, float]]:
    """The rows of `metrics/history.csv`, one an epoch.

    Raises:
        DataError: The file is missing, damaged or edited, or of another run.
    """
    path = paths.metrics / CURVE
    run.require(path, paths.student)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); {fix_of('distill')}") from error


def _require_run(run: RunRecord, path: Path, values: dict[str, Any], stage: str) -> None:
    """Refuses metrics of another student.

    Raises:
        DataError: They are of another run.
    """
    if (found := values.get("fingerprint")) != run.fingerprint:
        raise DataError(
            f"{path}: metrics of the run {found}, the student is of {run.fingerprint}; "
            f"{fix_of(stage)}"
        )
