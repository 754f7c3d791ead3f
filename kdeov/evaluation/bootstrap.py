"""Bootstrap intervals of metrics over pictures (Efron, 1979, doi:10.1214/aos/1176344552; the
percentile interval is that of Efron and Tibshirani, 1993, chapter 13).

A metric is a function of how often each of N pictures is counted: once each gives its value, and
the counts of a resample give one draw of its distribution. What is asked about a picture, such as
its captions, is drawn with it, as answers about one picture do not vary independently. Metrics of
two models that are given the same counts are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
CHUNK = 1_000_000  # counts that are held at once


class Statistic(Protocol):
    """A metric, as a function of counts."""

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Counts [R, N] of the pictures to R values; NaN where nothing that it asks about is
        counted.
        """


@dataclass(frozen=True)
class Mean:
    """The mean of the answers to some questions about pictures.

    Attributes:
        totals: [N], sum of the answers about each picture.
        sizes: [N], number of them.
    """

    totals: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls,
        answers: npt.ArrayLike,
        pictures: npt.ArrayLike | None = None,
        size: int | None = None,
    ) -> Mean:
        """A mean of Q answers.

        Args:
            answers: [Q] numbers.
            pictures: [Q], the picture that each answer is about; by default one answer a picture.
            size: Number of pictures, N; by default Q.
        """
        values = np.asarray(answers, dtype=float)
        owners = np.arange(len(values)) if pictures is None else np.asarray(pictures)
        count = len(values) if size is None else size
        return cls(
            np.bincount(owners, values, minlength=count), np.bincount(owners, minlength=count)
        )

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (counts @ self.totals) / (counts @ self.sizes)


@dataclass(frozen=True)
class MeanPerClass:
    """The mean of the recalls of the classes that are counted.

    Attributes:
        right: [N], whether each picture is recognised.
        labels: [N] class numbers.
    """

    right: np.ndarray
    labels: np.ndarray

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        order = np.argsort(self.labels, kind="stable")
        starts = np.unique(self.labels[order], return_index=True)[1]
        sizes = np.add.reduceat(counts[:, order], starts, axis=1)
        hits = np.add.reduceat(counts[:, order] * self.right[order], starts, axis=1)
        recalls = hits / np.maximum(sizes, 1)
        return recalls.sum(axis=1) / (sizes > 0).sum(axis=1)


@dataclass(frozen=True)
class Median:
    """The lower median of the answers to some questions about pictures.

    Attributes:
        answers: [Q] numbers.
        pictures: [Q], the picture that each answer is about.
    """

    answers: np.ndarray
    pictures: np.ndarray

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        order = np.argsort(self.answers, kind="stable")
        passed = np.cumsum(counts[:, self.pictures[order]], axis=1)
        middle = (2 * passed >= passed[:, -1:]).argmax(axis=1)
        return np.where(passed[:, -1] > 0, self.answers[order][middle].astype(float), np.nan)


def values_of(statistics: Mapping[str, Statistic], size: int) -> dict[str, float]:
    """The values of statistics of N pictures."""
    once = np.ones((1, size), dtype=np.int64)
    return {name: float(statistic(once)[0]) for name, statistic in statistics.items()}


def distributions(
    statistics: Mapping[str, Statistic], size: int, resamples: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Values [R] of statistics of N pictures, each in the same R resamples."""
    parts = [
        {name: statistic(counts) for name, statistic in statistics.items()}
        for counts in _counts(size, resamples, seed)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in statistics}


def interval(values: np.ndarray) -> list[float] | None:
    """The percentile interval, [low, high], of a distribution [R]; resamples without a value are
    passed over, and None is what remains of nothing.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return [float(v) for v in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _counts(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // size)
    for first in range(0, resamples, rows):
        draws = range(min(rows, resamples - first))
        yield np.stack([np.bincount(rng.integers(size, size=size), minlength=size) for _ in draws])
