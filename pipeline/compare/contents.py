"""What a run holds: params, metrics of each evaluation, answers about each image, curves."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from kdeov.errors import DataError
from pipeline.compare.evaluations import Answers, read_answers, read_values
from pipeline.compare.files import RunFiles
from pipeline.compare.mlflow_files import MlflowFiles
from pipeline.config.params import flatten
from pipeline.config.reading.yaml_file import parse_yaml

EVALUATIONS = ("zero_shot", "linear_probe", "retrieval", "detection")
ABSENT = "absent"  # key of a metrics file: why the data set has none


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run.

    Attributes:
        dataset: Name of the data set.
        scores: Its metrics; empty where it has none.
        answers: What the student answered about each image; None where that is not at hand.
        problem: Why the metrics or answers do not count, such as an edited file; None if they do.
    """

    dataset: str
    scores: dict[str, Any]
    answers: Answers | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RunContents:
    """A run, read.

    Attributes:
        label: What people call it.
        params: Params by dotted name; those that MLflow has are texts.
        in_mlflow: Whether it was read from MLflow.
        evaluations: By name, those that the run has.
        curves: By column of `history.csv`, a value an epoch.
    """

    label: str
    params: dict[str, Any]
    in_mlflow: bool
    evaluations: dict[str, Evaluated]
    curves: dict[str, list[float]]


def read_run(files: RunFiles) -> RunContents:
    """Reads a run. A damaged or edited file of metrics is a problem of its evaluation alone.

    Raises:
        DataError: The run has no metrics, or its params are damaged.
        StorageError: MLflow cannot be read.
    """
    evaluations = {}
    student = _fingerprint(files)
    for name in EVALUATIONS:
        if (found := _evaluated(files, name, student)) is not None:
            evaluations[name] = found
    if not evaluations:
        raise DataError(
            f"{files.label}: has no metrics/*.json; name a revision after `dvc repro`, or a run "
            "that `kdeov publish` wrote"
        )
    in_mlflow = isinstance(files, MlflowFiles)
    return RunContents(files.label, _params(files), in_mlflow, evaluations, _curves(files))


def _fingerprint(files: RunFiles) -> str | None:
    """The fingerprint of the run's student; None where the file that says it does not count."""
    try:
        return read_values(files, "distill").get("fingerprint")
    except DataError:
        return None


def _evaluated(files: RunFiles, name: str, student: str | None) -> Evaluated | None:
    try:
        values = read_values(files, name)
    except DataError as error:
        return Evaluated("", {}, problem=str(error))
    if not values:
        return None
    dataset, scores = next(iter(values.items()))
    if ABSENT in scores:
        return Evaluated(dataset, {}, problem=str(scores[ABSENT]))
    if student is not None and (found := scores.get("fingerprint")) != student:
        # of an experiment that ran other stages: the file is still that of its commit
        stale = f"metrics/{name}.json is of the run {found}, not {student}; run `dvc repro {name}`"
        return Evaluated(dataset, {}, problem=stale)
    try:
        return Evaluated(dataset, scores, read_answers(files, name, scores))
    except DataError as error:
        return Evaluated(dataset, scores, problem=str(error))


def _params(files: RunFiles) -> dict[str, Any]:
    if isinstance(files, MlflowFiles):
        return files.params
    text = files.read("params.yaml")
    return {} if text is None else flatten(parse_yaml(text, files.where("params.yaml")) or {})


def _curves(files: RunFiles) -> dict[str, list[float]]:
    """The columns of `history.csv`; empty where it is missing or damaged."""
    data = files.read("metrics/history.csv")
    if data is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else ())}
    except (ValueError, TypeError, KeyError):
        return {}
