"""The rate of loading is compared with that of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.doctor.training import Rates, measure_rates, rate_check
from pipeline.training.distill import train_config

pytestmark = pytest.mark.usefixtures("loggers")


@pytest.mark.parametrize(
    ("read", "trained_rate", "loaders", "verdict", "words"),
    [
        (1000, 100, 0, "ok", "waits 9% of the time"),
        (1000, 4000, 0, "warning", "wait 80% of the time; set cluster.dataloader_workers to 4"),
        (1000, 4000, 2, "warning", "wait 50% of the time; set cluster.dataloader_workers to 4"),
        (1000, 4000, 4, "ok", "waits 0% of the time"),
        (
            10,
            4000,
            4,
            "warning",
            "set cluster.dataloader_workers to 400 where there are as many cores",
        ),
    ],
)
def test_the_rate_of_data_is_compared_with_what_training_takes(
    read: float, trained_rate: float, loaders: int, verdict: str, words: str
) -> None:
    check = rate_check(Rates(read, trained_rate, "cpu"), loaders, cores=16)
    assert check.verdict == verdict and words in check.text


def test_both_rates_are_those_of_the_real_stream_and_the_real_step(
    built: Layout, make_params: Callable[..., Params]
) -> None:
    threads = torch.get_num_threads()
    params = make_params()
    rates = measure_rates(train_config(params, built), seconds=0.5)
    assert rates.device == "cpu" and rates.read > 1 and rates.trained > 1
    assert torch.get_num_threads() == threads
