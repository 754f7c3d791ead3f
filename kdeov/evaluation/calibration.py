"""Calibration of classifiers: how far their confidence is from the share of right answers.

Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv:1706.04599).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15  # as in the tables of Guo et al.
BLOCK = 256  # images; probabilities of all images and classes would not fit in memory


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram: bin m of M has confidences in ((m - 1) / M, m / M].

    Attributes:
        counts: [M] images in each bin.
        confidence: [M] mean confidence in each bin; 0 in empty ones.
        accuracy: [M] share of right predictions in each bin; 0 in empty ones.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error (equation 3 of the paper): the mean over images of the
        distance between confidence and accuracy of their bin.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.dot(self.counts, gaps) / self.counts.sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy, over all images."""
        gaps = self.confidence - self.accuracy
        return float(np.dot(self.counts, gaps) / self.counts.sum())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability of predictions, in bins of equal width.

    Args:
        confidence: [N] probabilities of the predicted classes, from 0 to 1; N is at least 1.
        right: [N] whether each prediction is right.
        bins: Number of bins, M.
    """
    confidence = confidence.astype(np.float64)
    numbers = np.searchsorted(np.linspace(0, 1, bins + 1), confidence) - 1
    numbers = numbers.clip(0, bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    sums = [np.bincount(numbers, values, minlength=bins) for values in (confidence, right)]
    confidence, accuracy = (total / np.maximum(counts, 1) for total in sums)
    return Reliability(counts, confidence, accuracy)


def top_confidence(similarity: Tensor, scale: float) -> Tensor:
    """The largest probability of each image under the softmax of scaled similarities.

    Args:
        similarity: [N, K] cosines of images and classes.
        scale: Factor between cosines and logits: CLIP's `logit_scale`, after `exp`.

    Returns:
        [N] probabilities.
    """
    blocks = (scale * block.float() for block in similarity.split(BLOCK))
    return torch.cat([block.softmax(dim=1).amax(dim=1) for block in blocks])
