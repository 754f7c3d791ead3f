"""The rules by which global batch, micro-batches, streams and workers must divide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.batch_sharing import check_sharing, shared_unit, sharing_problem

NUMBERS = st.integers(1, 60)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((10, 4), ["distill.global_batch_size = 10", "distill.num_streams = 4"]),
        ((10, 5, 4), ["distill.global_batch_size = 10", "distill.micro_batch_size = 4"]),
        ((64, 16, 32, 3), ["distill.global_batch_size = 64", "2 parts of 32", "3 workers"]),
        ((96, 2, 32, 3), ["1 parts of 96", "streams of 48", "cluster.num_workers"]),
    ],
)
def test_a_broken_rule_names_its_keys_and_numbers(
    complains: Any, numbers: tuple[int, ...], words: list[str]
) -> None:
    with complains(*words):
        check_sharing(*numbers)


@given(batch=NUMBERS, num_streams=NUMBERS, micro=NUMBERS, workers=st.integers(1, 8))
def test_the_rules_hold_exactly_where_every_worker_gets_whole_streams_and_micro_batches(
    batch: int, num_streams: int, micro: int, workers: int
) -> None:
    divides = batch % num_streams == 0 and batch % micro == 0
    fits = divides and batch // shared_unit(batch, num_streams, micro) >= workers
    assert (sharing_problem(batch, num_streams, micro, workers) is None) == fits
