"""Answers about each image as arrays, so that two models can be compared in pairs later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from kdeov.errors import DataError
from kdeov.evaluation.bootstrap import Mean, MeanPerClass, Median, Statistic

KINDS = {kind.__name__: kind for kind in (Mean, MeanPerClass, Median)}
SEPARATOR = "/"  # of model, metric, kind and field in the name of an array


def answers_to_arrays(scores: Mapping[str, Mapping[str, Statistic]]) -> dict[str, np.ndarray]:
    """The arrays of metrics, each of the smallest type that holds its values.

    Args:
        scores: Metrics by model and name, as `classification` and `retrieval` return them.

    Returns:
        By `MODEL/METRIC/KIND/FIELD`, the arrays of each metric.
    """
    arrays = {}
    for model, metrics in scores.items():
        for metric, statistic in metrics.items():
            kind = KINDS[type(statistic).__name__]
            for field in fields(kind):
                name = SEPARATOR.join((model, metric, kind.__name__, field.name))
                arrays[name] = _smallest(np.asarray(getattr(statistic, field.name)))
    return arrays


def answers_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Statistic]]:
    """The inverse of `answers_to_arrays`; arrays of other names are left out.

    Raises:
        DataError: An array of a metric is missing, or it is of another version.
    """
    parts: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.count(SEPARATOR) == 3:
            model, metric, kind, field = name.split(SEPARATOR)
            parts.setdefault((model, metric, kind), {})[field] = array
    scores: dict[str, dict[str, Statistic]] = {}
    for (model, metric, kind), values in parts.items():
        try:
            scores.setdefault(model, {})[metric] = KINDS[kind](**values)
        except (KeyError, TypeError) as error:
            raise DataError(f"answers of {model}, {metric}: of another version") from error
    return scores


def size_of(statistic: Statistic) -> int:
    """The number of images that a statistic is about, N.

    Raises:
        DataError: The statistic is of no known kind.
    """
    if isinstance(statistic, Mean):
        return len(statistic.totals)
    if isinstance(statistic, MeanPerClass):
        return len(statistic.labels)
    if isinstance(statistic, Median):
        return int(statistic.images.max()) + 1 if len(statistic.images) else 0
    raise DataError(f"{type(statistic).__name__}: no statistic of images")


def _smallest(values: np.ndarray) -> np.ndarray:
    """An array of integers in the smallest type that holds them; others in float32."""
    if values.dtype == bool:
        return values
    if not np.array_equal(values, np.rint(values)):
        return values.astype(np.float32)
    bound = int(values.max(initial=0))
    low = int(values.min(initial=0))
    return values.astype(np.min_scalar_type(bound) if low >= 0 else np.int64)
