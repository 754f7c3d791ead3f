"""Means over seeds, and what each variant gains over the first one, paired over test images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdeov.evaluation.bootstrap import Statistic, distributions, interval
from pipeline.ablation.question import Ablation
from pipeline.ablation.trials import Trial
from pipeline.compare.evaluations import Answers, read_answers, test_of

BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class MeanOfSeeds:
    """The mean of a metric over the seeds of a variant, in the same bootstrap samples of images.

    Attributes:
        parts: The metric of each seed.
    """

    parts: tuple[Statistic, ...]

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        return np.mean([part(counts) for part in self.parts], axis=0)


@dataclass(frozen=True)
class Cell:
    """A metric of a variant.

    Attributes:
        mean: Over the seeds.
        deviation: Standard deviation over the seeds; None for one seed.
        gain: Mean minus that of the first variant; None for the first variant.
        bounds: 95% interval of the gain; None where the images were not the same, or what was
            answered about each is not at hand.
    """

    mean: float
    deviation: float | None
    gain: float | None = None
    bounds: tuple[float, float] | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the gain leaves out 0."""
        return self.bounds is not None and not self.bounds[0] <= 0 <= self.bounds[1]


@dataclass(frozen=True)
class Outcome:
    """The answer to an ablation's question.

    Attributes:
        ablation: The question.
        rows: Cells by variant and column.
        remarks: Why intervals are missing.
    """

    ablation: Ablation
    rows: dict[str, dict[str, Cell]]
    remarks: list[str]


def outcome_of(ablation: Ablation, trials: Sequence[Trial]) -> Outcome:
    """The outcome of all trials of an ablation.

    Raises:
        DataError: A file of answers is damaged.
    """
    groups = {v: [trial for trial in trials if trial.variant == v] for v in ablation.variants}
    means = {
        variant: {
            column: statistics.mean(trial.metrics[column] for trial in group)
            for column in ablation.metrics
        }
        for variant, group in groups.items()
    }
    first = next(iter(groups))
    remarks: dict[str, None] = {}
    bounds = _bounds(ablation, groups, first, remarks)
    rows: dict[str, dict[str, Cell]] = {}
    for variant, group in groups.items():
        rows[variant] = {}
        for column in ablation.metrics:
            values = [trial.metrics[column] for trial in group]
            mean = means[variant][column]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            gain = None if variant == first else mean - means[first][column]
            rows[variant][column] = Cell(mean, deviation, gain, bounds.get((variant, column)))
    return Outcome(ablation, rows, list(remarks))


def _bounds(
    ablation: Ablation, groups: dict[str, list[Trial]], first: str, remarks: dict[str, None]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Intervals of gains by variant and column, where there are any; `remarks` gets the reasons."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for evaluation in {address.partition(".")[0]: None for address in ablation.metrics.values()}:
        columns = {
            column: address.rpartition(".")[2]
            for column, address in ablation.metrics.items()
            if address.startswith(f"{evaluation}.student.")
        }
        answers = {
            variant: [read_answers(t.files, evaluation, t.scores[evaluation]) for t in group]
            for variant, group in groups.items()
        }
        tests = {test_of(t.scores[evaluation]) for group in groups.values() for t in group}
        sizes = {a.size for group in answers.values() for a in group if a is not None}
        if len(tests) > 1 or len(sizes) > 1:
            remarks[f"No intervals of {evaluation}: the variants have other test images."] = None
            continue
        if not sizes or any(a is None for group in answers.values() for a in group):
            remarks[
                f"No intervals of {evaluation}: DVC's cache lacks answers about single images."
            ] = None
            continue
        metrics: dict[str, Statistic] = {}
        for variant, group in answers.items():
            for column, key in columns.items():
                if (mean := _mean_of_seeds(group, key)) is not None:
                    metrics[f"{variant}/{column}"] = mean
        draws = distributions(metrics, sizes.pop(), BOOTSTRAP_SAMPLES)
        for variant in groups:
            for column in columns:
                after, before = (draws.get(f"{v}/{column}") for v in (variant, first))
                if variant != first and after is not None and before is not None:
                    low_high = interval(after - before)
                    if low_high is not None:
                        found[variant, column] = (low_high[0], low_high[1])
    return found


def _mean_of_seeds(group: Sequence[Answers | None], key: str) -> MeanOfSeeds | None:
    parts = tuple(a.statistics[key] for a in group if a is not None and key in a.statistics)
    return MeanOfSeeds(parts) if len(parts) == len(group) else None
