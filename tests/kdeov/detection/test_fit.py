"""The three numbers of a score."""

from __future__ import annotations

import pytest
import torch

from kdeov.detection.fit import choose_beta, fit_logistic
from kdeov.errors import DataError


def test_scale_and_bias_are_those_that_the_data_was_drawn_with() -> None:
    torch.manual_seed(0)
    cosines = torch.rand(40_000, 2) * 0.6
    drawn = torch.rand(len(cosines)) < torch.sigmoid(18 * cosines[:, 0] - 6)
    # the second column belongs exactly to those of which the first does not
    cosines[:, 1] = torch.logit(1 - torch.sigmoid(18 * cosines[:, 0] - 6)) / 18 + 6 / 18
    scale, bias = fit_logistic(cosines, (~drawn).long())
    assert scale == pytest.approx(18, rel=0.05)
    assert bias == pytest.approx(-6, rel=0.05)


def test_classes_that_can_be_told_apart_without_an_error_give_a_finite_scale() -> None:
    cosines = torch.eye(3).repeat(20, 1)
    scale, bias = fit_logistic(cosines, torch.arange(3).repeat(20))
    assert 0 < scale < 1e4
    assert torch.sigmoid(torch.tensor(scale + bias)) > 0.99
    assert torch.sigmoid(torch.tensor(bias)) < 0.01


def test_no_proposal_on_a_box_is_an_error() -> None:
    with pytest.raises(DataError, match="val split"):
        fit_logistic(torch.empty(0, 4), torch.empty(0, dtype=torch.long))


def test_beta_is_the_largest_that_is_about_as_good_as_the_best() -> None:
    quality = {0.2: 0.700, 0.4: 0.712, 0.6: 0.703, 0.8: 0.701}
    params = choose_beta(5.0, -1.0, lambda p: quality[p.beta], list(quality))
    assert (params.scale, params.bias, params.beta) == (5.0, -1.0, 0.6)
