"""Two versions of the registry compared: whether one is no worse than the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches

from kdeov.errors import ConfigError, DataError

SCORES_TAG = "kdeov.scores"
"""Tag of a version: its scores as JSON."""
DEFAULT_METRICS = (
    "zeroshot/top1", "linear_probe/top1", "retrieval/i2t_r1", "retrieval/i2t_r5",
    "retrieval/t2i_r1", "retrieval/t2i_r5", "detection/all_ap50",
)  # fmt: skip
"""What versions are compared by where nobody names metrics: those of them that the champion has."""
RANK = "rank"  # at the end of a metric's name: smaller is better


@dataclass(frozen=True)
class Score:
    """A metric of a version.

    Attributes:
        value: The metric.
        low: Lower end of its 95% bootstrap interval over the test images.
        high: Upper end.
        test: The test that it was measured on: images, classes, prompts and rules.
    """

    value: float
    low: float
    high: float
    test: str


@dataclass(frozen=True)
class Comparison:
    """A metric of a candidate beside the champion's.

    Attributes:
        metric: Name of the metric.
        champion: Score of the present champion.
        candidate: Score of the candidate; None if it has none.
    """

    metric: str
    champion: Score
    candidate: Score | None

    def problem(self) -> str | None:
        """Why the candidate cannot replace the champion by this metric; None if it can."""
        if self.candidate is None:
            return f"{self.metric} is missing"
        if self.candidate.test != self.champion.test:
            return (
                f"{self.metric} was measured on another test ({self.candidate.test}, the champion "
                f"on {self.champion.test})"
            )
        rank = self.metric.endswith(RANK)
        worse = (
            self.candidate.value > self.champion.high
            if rank
            else self.candidate.value < self.champion.low
        )
        if worse or self.candidate.value != self.candidate.value:  # nor NaN
            return f"{self} is {'above' if rank else 'below'} the champion's interval"
        return None

    def __str__(self) -> str:
        ours, theirs = self.candidate, self.champion
        found = "missing" if ours is None else f"{ours.value:.4g}"
        return (
            f"{self.metric} {found} (champion {theirs.value:.4g} [{theirs.low:.4g}, "
            f"{theirs.high:.4g}])"
        )


def write_scores(scores: Mapping[str, Score]) -> str:
    """Scores as the value of `SCORES_TAG`."""
    return json.dumps({name: asdict(score) for name, score in scores.items()}, sort_keys=True)


def read_scores(text: str | None, where: str) -> dict[str, Score]:
    """The inverse of `write_scores`.

    Raises:
        DataError: The tag is missing or edited.
    """
    try:
        values = json.loads(text or "")
        return {
            name: Score(float(v["value"]), float(v["low"]), float(v["high"]), str(v["test"]))
            for name, v in values.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where}: the tag {SCORES_TAG} holds no scores; run `kdeov publish` in its checkout"
        ) from error


def compare(
    champion: Mapping[str, Score], candidate: Mapping[str, Score], named: Sequence[str] | None
) -> list[Comparison]:
    """Compares two versions.

    Args:
        champion: Scores of the present champion.
        candidate: Scores of the candidate.
        named: Names of the metrics that count; None takes those of `DEFAULT_METRICS` that the
            champion has.

    Raises:
        ConfigError: A name that the champion does not have.
        DataError: There is nothing to compare.
    """
    metrics = [name for name in DEFAULT_METRICS if name in champion] if named is None else named
    if not metrics:
        raise DataError(
            "the champion has no metric to compare by; give its alias to another version on "
            "MLflow's page"
        )
    require_known(metrics, champion)
    return [Comparison(name, champion[name], candidate.get(name)) for name in metrics]


def require_known(metrics: Sequence[str], scores: Mapping[str, Score]) -> None:
    """Refuses metrics that a version does not have.

    Raises:
        ConfigError: One is unknown; the line names the nearest.
    """
    for name in metrics:
        if name not in scores:
            near = get_close_matches(name, scores, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(scores)}"
            raise ConfigError(f"--metrics {name}: the version has no such metric; {hint}")
