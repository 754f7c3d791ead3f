"""How often background images score as high as a hit, for one query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAIL = 0.01  # share of the background above which a distribution stands for the counts
EXCEEDANCES = 50  # scores that it needs; a small background gives a larger share
MAX_SHARE = 0.2
MAX_SHAPE = 0.5  # beyond it, the moments do not exist
FEW = 10  # scores below which counts alone are used


@dataclass(frozen=True)
class ScoreTail:
    """Probabilities that a background image scores at least so high for one query: counts and, for
    the highest scores, a generalized Pareto distribution of what exceeds a threshold (Coles 2001,
    section 4.3), fitted by probability-weighted moments (Hosking and Wallis 1987).

    Attributes:
        scores: Of the background, float64 [N], lowest first.
        threshold: The score from which the distribution counts.
        share: Of the background above it.
        scale: Of the distribution, sigma; 0 where all exceedances are equal.
        shape: Of the distribution, xi.
    """

    scores: np.ndarray
    threshold: float
    share: float
    scale: float
    shape: float

    @classmethod
    def of(cls, background: np.ndarray, query: np.ndarray) -> ScoreTail:
        """Fits the scores of a background [N, D] for a query [D]."""
        return cls.fit(background.astype(np.float32) @ query.astype(np.float32))

    @classmethod
    def fit(cls, scores: np.ndarray) -> ScoreTail:
        """Fits scores [N]."""
        ordered = np.sort(scores.astype(np.float64))
        share = min(max(TAIL, EXCEEDANCES / len(ordered)), MAX_SHARE)
        count = round(share * len(ordered))
        if count < FEW:
            return cls(ordered, np.inf, 0.0, 0.0, 0.0)
        threshold = float((ordered[-count - 1] + ordered[-count]) / 2)
        scale, shape = _pareto(ordered[-count:] - threshold)
        return cls(ordered, threshold, count / len(ordered), scale, shape)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities float64 [N] of scores [N]."""
        scores = scores.astype(np.float64)
        below = np.searchsorted(self.scores, scores, side="left")
        # the score itself counts as one of the background, so that no count gives 0
        counted = (len(self.scores) - below + 1) / (len(self.scores) + 1)
        high = scores > self.threshold
        if high.any():
            counted[high] = self.share * self._survival(scores[high] - self.threshold)
        return np.minimum(counted, 1.0)

    def _survival(self, excess: np.ndarray) -> np.ndarray:
        if self.scale <= 0:
            return np.zeros_like(excess)
        if abs(self.shape) < 1e-6:
            return np.exp(-excess / self.scale)
        base = np.maximum(1 + self.shape * excess / self.scale, 0)
        with np.errstate(divide="ignore"):
            return np.power(base, -1 / self.shape)


def _pareto(excess: np.ndarray) -> tuple[float, float]:
    """Scale and shape of a generalized Pareto distribution of sorted exceedances [N]."""
    plotted = (np.arange(1, len(excess) + 1) - 0.35) / len(excess)
    first = float(excess.mean())
    second = float(((1 - plotted) * excess).mean())
    if first <= 0 or first <= 2 * second:
        return first, 0.0
    shape = 2 - first / (first - 2 * second)
    if abs(shape) > MAX_SHAPE:  # the scale that keeps the mean
        shape = MAX_SHAPE * np.sign(shape)
        return first * (1 - shape), float(shape)
    return 2 * first * second / (first - 2 * second), shape
