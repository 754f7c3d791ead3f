"""Metrics and per-image answers of a run's evaluations, read from its files and checked."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdeov.errors import DataError
from kdeov.evaluation.answers import answers_from_arrays
from kdeov.evaluation.bootstrap import Statistic
from pipeline.compare.files import RunFiles
from pipeline.storage.checked import fix_of, parse_checked_json

ANSWERS = "answers"  # name of the files in the folder of an evaluation
TRANSFORM_PARTS = 2  # at the end of a protocol: the student's image transform, bootstrap samples


@dataclass(frozen=True)
class Answers:
    """What a student answered about each test image.

    Attributes:
        size: Number of images, N.
        statistics: Metrics by name.
    """

    size: int
    statistics: dict[str, Statistic]


def read_values(files: RunFiles, name: str) -> dict[str, Any]:
    """The file `metrics/NAME.json` of a run; empty where it has none.

    Raises:
        DataError: The file is damaged or edited.
    """
    path = f"metrics/{name}.json"
    data = files.read(path)
    if data is None:
        return {}
    return parse_checked_json(data, files.where(path), fix_of(name))


def read_scores(files: RunFiles, name: str, dataset: str) -> dict[str, Any]:
    """Metrics of a data set in the file of an evaluation; empty where the run has none.

    Raises:
        DataError: The file is damaged or edited.
    """
    return read_values(files, name).get(dataset) or {}


def test_of(scores: dict[str, Any]) -> str:
    """What metrics were measured on: images, classes, prompts and rules, without the size at which
    the student sees the images.
    """
    return str(scores.get("protocol", "")).rsplit("/", TRANSFORM_PARTS)[0]


def read_answers(files: RunFiles, name: str, scores: dict[str, Any]) -> Answers | None:
    """What the student answered about each test image; None where the file is not at hand.

    Args:
        files: Files of the run.
        name: Name of the evaluation.
        scores: Its metrics.

    Raises:
        DataError: The file is damaged, edited or of another run.
    """
    path = f"out/evaluation/{name}/{ANSWERS}"
    data, described = files.read(f"{path}.npz"), files.read(f"{path}.json")
    if data is None or described is None:
        return None
    where, fix = files.where(f"{path}.npz"), fix_of(name)
    sha256 = parse_checked_json(described, files.where(f"{path}.json"), fix)
    if sha256.get(f"{ANSWERS}.npz") != hashlib.sha256(data).hexdigest():
        raise DataError(f"{where}: damaged or edited; {fix}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        fingerprint, size = str(arrays.pop("fingerprint")), int(arrays.pop("size"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: of another version; {fix}") from error
    if fingerprint != scores.get("fingerprint"):
        raise DataError(f"{where}: of the run {fingerprint}, unlike metrics/{name}.json; {fix}")
    return Answers(size, answers_from_arrays(arrays).get("student", {}))
