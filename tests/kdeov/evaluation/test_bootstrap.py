"""The bootstrap against plain loops, and against scipy's."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from kdeov.evaluation import bootstrap
from kdeov.evaluation.bootstrap import (
    Mean,
    MeanPerClass,
    Median,
    distributions,
    interval,
    values_of,
)

IMAGES, SAMPLES = 40, 30


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def hits(rng: np.random.Generator) -> np.ndarray:
    return rng.random(IMAGES) < 0.7


@pytest.fixture(scope="module")
def labels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 6, IMAGES)


@pytest.fixture(scope="module")
def owners(rng: np.random.Generator) -> np.ndarray:
    """The image of each of some captions, out of order."""
    return rng.permutation(np.repeat(np.arange(IMAGES), rng.integers(1, 5, IMAGES)))


def drawn(seed: int = 0) -> list[np.ndarray]:
    """Numbers of the images of each bootstrap sample, as a loop would draw them."""
    rng = np.random.default_rng(seed)
    return [rng.integers(IMAGES, size=IMAGES) for _ in range(SAMPLES)]


def check(statistic: bootstrap.Statistic, naive: Callable[[np.ndarray], float]) -> None:
    """A statistic gives what a loop over the drawn images gives."""
    values = distributions({"it": statistic}, IMAGES, SAMPLES)["it"]
    assert values == pytest.approx([naive(rows) for rows in drawn()])
    assert values_of({"it": statistic}, IMAGES)["it"] == pytest.approx(naive(np.arange(IMAGES)))


def test_a_mean_is_that_of_the_drawn_images(hits: np.ndarray) -> None:
    check(Mean.of(hits), lambda rows: float(hits[rows].mean()))


def test_a_mean_over_some_images_counts_those_that_are_drawn(
    hits: np.ndarray, labels: np.ndarray
) -> None:
    some = np.flatnonzero(labels < 3)
    statistic = Mean.of(hits[some], some, size=IMAGES)
    check(statistic, lambda rows: float(hits[rows][labels[rows] < 3].mean()))


def test_captions_are_drawn_with_their_image(rng: np.random.Generator, owners: np.ndarray) -> None:
    answers = rng.random(len(owners))

    def naive(rows: np.ndarray) -> float:
        return float(np.concatenate([answers[owners == image] for image in rows]).mean())

    check(Mean.of(answers, owners, size=IMAGES), naive)


def test_the_mean_of_recalls_is_over_the_classes_that_are_drawn(
    hits: np.ndarray, labels: np.ndarray
) -> None:
    def naive(rows: np.ndarray) -> float:
        drawn_labels = labels[rows]
        return statistics.mean(
            float(hits[rows][drawn_labels == label].mean()) for label in set(drawn_labels)
        )

    check(MeanPerClass(hits, labels), naive)


def test_a_median_is_the_lower_one_of_the_drawn_answers(
    rng: np.random.Generator, owners: np.ndarray
) -> None:
    ranks = rng.integers(1, 9, len(owners))

    def naive(rows: np.ndarray) -> float:
        answers = np.concatenate([ranks[owners == image] for image in rows])
        return float(statistics.median_low(answers.tolist()))

    check(Median(ranks, owners), naive)


def test_what_is_never_drawn_has_no_value_and_the_interval_is_of_the_rest() -> None:
    rare = Mean.of([1.0], [0], size=IMAGES)  # a third of the bootstrap_samples lack this image
    values = distributions({"rare": rare}, IMAGES, 200)["rare"]
    assert 40 < np.isnan(values).sum() < 110
    assert interval(values) == [1, 1]
    assert interval(np.array([np.nan])) is None


def test_intervals_agree_with_scipys(hits: np.ndarray) -> None:
    ours = interval(distributions({"it": Mean.of(hits)}, IMAGES, 20_000)["it"])
    theirs = scipy.stats.bootstrap(
        (hits.astype(float),), np.mean, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.026)  # one image is 0.025


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        low, high = interval(  # type: ignore[misc]
            distributions({"it": Mean.of(rng.random(200) < 0.6)}, 200, 200)["it"]
        )
        held += low <= 0.6 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_resamples_are_the_same_every_time_and_in_any_portions(
    hits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"it": Mean.of(hits)}
    whole = distributions(metrics, IMAGES, SAMPLES)["it"]
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * IMAGES)
    assert np.array_equal(distributions(metrics, IMAGES, SAMPLES)["it"], whole)
    other = distributions(metrics, IMAGES, SAMPLES, seed=1)["it"]
    assert not np.array_equal(other, whole)
