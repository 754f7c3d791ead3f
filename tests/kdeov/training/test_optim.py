"""Optimiser, schedule and weight averaging."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdeov.training.losses import FeatureAlignmentLoss
from kdeov.training.optim import ExponentialAverage, build_optimizer, build_schedule, warmup_cosine

STEPS = st.tuples(st.integers(1, 300), st.integers(0, 300))


@given(STEPS)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(steps):
    total, warmup = max(steps), min(steps)
    rates = [warmup_cosine(step, total, warmup) for step in range(total + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == 1
    assert min(rates[:total]) > 0  # no step is wasted
    if warmup < total:
        assert rates[total] == pytest.approx(0, abs=1e-12)
        assert rates[total] == pytest.approx(warmup_cosine(total + 9, total, warmup))


def test_the_schedule_follows_the_steps():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, rates = build_schedule(optimizer, total=8, warmup=2), []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx(0.5 * warmup_cosine(step, 8, 2)) for step in range(8)]
    assert rates[:3] == [0.25, 0.5, 0.5]


def test_norms_biases_and_temperatures_do_not_decay():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    module = nn.ModuleList([layers, FeatureAlignmentLoss({"contrastive": 1.0})])
    for parameter in module.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.zeros_like(parameter)
    layers[3].weight.requires_grad_(False)
    build_optimizer(module, learning_rate=0.1, weight_decay=0.5).step()
    decayed = [name for name, p in module.named_parameters() if not torch.all(p == 2)]
    assert decayed == ["0.0.weight"]
    torch.testing.assert_close(layers[0].weight, torch.full((4, 3, 1, 1), 2 * (1 - 0.1 * 0.5)))


def test_every_parameter_that_learns_is_stepped():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    module[0].weight.requires_grad_(False)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.clone() for name, p in module.named_parameters()}
    build_optimizer(module, learning_rate=0.1, weight_decay=0.0).step()
    moved = [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


def _module(value: float) -> nn.Module:
    module = nn.BatchNorm2d(2)
    nn.init.constant_(module.weight, value)
    module.running_mean.fill_(value)
    return module


def test_the_average_converges_to_weights_that_stand_still():
    average, target = ExponentialAverage(_module(0), decay=0.9), _module(3)
    target.num_batches_tracked.fill_(17)
    distances = []
    for _ in range(120):
        average.update(target)
        distances.append((average.module.weight - 3).abs().max().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3
    torch.testing.assert_close(average.module.running_mean, target.running_mean)
    assert average.module.num_batches_tracked == 17


def test_the_average_is_the_weighted_mean_of_what_it_saw():
    average, expected = ExponentialAverage(_module(1), decay=0.5), 1.0
    for step, value in enumerate((2.0, -1.0, 4.0, 0.5, 3.0, 2.0, 7.0, 1.0, 5.0, 6.0), start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        average.update(_module(value))
    torch.testing.assert_close(average.module.weight, torch.full((2,), expected))


def test_the_average_is_a_frozen_copy():
    module = _module(1).train()
    average = ExponentialAverage(module, decay=0.9)
    average.update(_module(5))
    assert torch.equal(module.weight, torch.ones(2)) and module.training
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
