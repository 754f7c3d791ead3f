"""Scores of boxes and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kdeov.detection.scores import ScoreParams, detection_scores

PARAMS = ScoreParams(scale=30.0, bias=-12.0, beta=0.7)


def test_a_score_is_the_geometric_mean_of_objectness_and_class_probability() -> None:
    objectness, cosines = torch.rand(5), torch.rand(5, 7) * 2 - 1
    expected = objectness[:, None] ** 0.3 * torch.sigmoid(30 * cosines - 12) ** 0.7
    torch.testing.assert_close(detection_scores(objectness, cosines, PARAMS), expected)


def test_a_thousand_more_classes_change_no_score() -> None:
    torch.manual_seed(0)
    regions = F.normalize(torch.randn(50, 128), dim=-1)
    classes = F.normalize(torch.randn(1064, 128), dim=-1)
    objectness = torch.rand(50)
    few = detection_scores(objectness, regions @ classes[:64].T, PARAMS)
    many = detection_scores(objectness, regions @ classes.T, PARAMS)[:, :64]
    assert (few - many).abs().max() <= 1e-6


def test_no_objectness_and_no_likeness_give_finite_scores() -> None:
    scores = detection_scores(torch.tensor([0.0, 1.0]), torch.tensor([[-1.0], [1.0]]), PARAMS)
    assert scores.isfinite().all()
    assert 0 <= scores[0, 0] < 1e-6
    assert 0.99 < scores[1, 0] <= 1
