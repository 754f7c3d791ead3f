"""The calibration error against a loop that a reader can check at a glance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdeov.evaluation.calibration import BLOCK, reliability, top_confidence


@st.composite
def predicted(draw) -> tuple[list[float], list[bool], int]:
    """Confidences, whether they are right, and a number of bins."""
    size, bins = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    confidence = draw(st.lists(st.floats(0.001, 1), min_size=size, max_size=size))
    return confidence, draw(st.lists(st.booleans(), min_size=size, max_size=size)), bins


@given(predicted())
def test_the_calibration_error_is_the_mean_distance_of_the_bins(case):
    confidence, right, bins = case
    total = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if low < c <= high]
        if inside:
            mean_confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) * abs(accuracy - mean_confidence)
    found = reliability(np.array(confidence), np.array(right), bins)
    assert found.ece == pytest.approx(total / len(confidence))
    assert found.counts.sum() == len(confidence)
    assert found.overconfidence == pytest.approx(np.mean(confidence) - np.mean(right))


def test_a_certain_classifier_that_is_right_is_calibrated_and_one_that_errs_is_not():
    sure, right = np.ones(10), np.arange(10) < 7
    assert reliability(sure, np.ones(10, bool)).ece == 0
    assert reliability(sure, right).ece == pytest.approx(0.3)
    assert reliability(np.full(10, 0.7), right).ece == pytest.approx(0)


def test_confidence_is_the_largest_probability_of_the_softmax_in_any_block():
    torch.manual_seed(0)
    cosines = torch.rand(BLOCK + 7, 5) * 2 - 1
    expected = (20.0 * cosines).softmax(dim=1).max(dim=1).values
    torch.testing.assert_close(top_confidence(cosines, 20.0), expected)
    even = top_confidence(torch.zeros(3, 4), 100.0)
    assert even.tolist() == [0.25, 0.25, 0.25]
