"""Bootstrap intervals of metrics over images (Efron, 1979, doi:10.1214/aos/1176344552; the
percentile interval is that of Efron and Tibshirani, 1993, chapter 13).

A metric is a function of how often each of N images is counted: once each gives its value, and
the counts of a bootstrap sample give one draw of its distribution. All answers about an image, such
as those of its captions, are drawn with it, because they do not vary independently. The metrics of
two models with the same counts are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
CHUNK = 1_000_000  # counts in memory at a time


class Statistic(Protocol):
    """A metric, as a function of counts."""

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Counts [R, N] of the images to R values; NaN where no image with an answer is counted."""


@dataclass(frozen=True)
class Mean:
    """The mean of answers about images.

    Attributes:
        totals: [N], sum of the answers about each image.
        sizes: [N], number of answers about each image.
    """

    totals: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls,
        answers: npt.ArrayLike,
        images: npt.ArrayLike | None = None,
        size: int | None = None,
    ) -> Mean:
        """A mean of Q answers.

        Args:
            answers: [Q] numbers.
            images: [Q], the image that each answer is about; by default one answer an image.
            size: Number of images, N; by default Q.
        """
        values = np.asarray(answers, dtype=float)
        owners = np.arange(len(values)) if images is None else np.asarray(images)
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
        right: [N], whether each image is recognised.
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
    """The lower median of answers about images.

    Attributes:
        answers: [Q] numbers.
        images: [Q], the image that each answer is about.
    """

    answers: np.ndarray
    images: np.ndarray

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        order = np.argsort(self.answers, kind="stable")
        passed = np.cumsum(counts[:, self.images[order]], axis=1)
        middle = (2 * passed >= passed[:, -1:]).argmax(axis=1)
        return np.where(passed[:, -1] > 0, self.answers[order][middle].astype(float), np.nan)


def values_of(statistics: Mapping[str, Statistic], size: int) -> dict[str, float]:
    """The values of statistics of N images."""
    once = np.ones((1, size), dtype=np.int64)
    return {name: float(statistic(once)[0]) for name, statistic in statistics.items()}


def distributions(
    statistics: Mapping[str, Statistic], size: int, bootstrap_samples: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Values [R] of statistics of N images, each in the same R bootstrap samples."""
    parts = [
        {name: statistic(counts) for name, statistic in statistics.items()}
        for counts in bootstrap_counts(size, bootstrap_samples, seed)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in statistics}


def interval(values: np.ndarray) -> list[float] | None:
    """The percentile interval [low, high] of a distribution [R]. Draws without a value are left
    out; None where no draw has one.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return [float(v) for v in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def paired_gain(
    before: Statistic, after: Statistic, size: int, bootstrap_samples: int
) -> dict[str, float | list[float] | None]:
    """The difference of a metric of two models on the same N images, and its interval from paired
    bootstrap samples.

    Returns:
        `before`, `after`, `gain` and `interval`, [low, high] of the gain.
    """
    both: dict[str, Statistic] = {"before": before, "after": after}
    values = values_of(both, size)
    draws = distributions(both, size, bootstrap_samples)
    return {
        **values,
        "gain": values["after"] - values["before"],
        "interval": interval(draws["after"] - draws["before"]),
    }


def bootstrap_counts(size: int, bootstrap_samples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Counts [r, N] of the images of R bootstrap samples, some samples at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // size)
    for first in range(0, bootstrap_samples, rows):
        draws = range(min(rows, bootstrap_samples - first))
        yield np.stack([np.bincount(rng.integers(size, size=size), minlength=size) for _ in draws])
