"""Bytes are fetched for the next few inputs ahead, and samples come in order."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kdeov.errors import StorageError
from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.prepare.readers.remote.read_ahead import in_order, samples_of
from pipeline.storage.storage import MAX_REQUESTS


class Slow:
    """Needs as many fetches at once as there may be; samples are made in one thread."""

    waits = True

    def __init__(self) -> None:
        self.together = threading.Barrier(MAX_REQUESTS)
        self.thread = threading.get_ident()
        self.fetched: list[int] = []

    def fetch(self, item: int) -> bytes:
        self.fetched.append(item)
        self.together.wait(60)  # for ever, if requests followed each other
        return bytes([item])

    def made(self, item: int, data: bytes) -> Sample:
        assert threading.get_ident() == self.thread
        return Sample(str(item), data, [], "")


def test_inputs_are_fetched_at_once_and_samples_come_in_order() -> None:
    make: Any = Slow()
    inputs = range(4 * MAX_REQUESTS)
    samples = list(samples_of(make, inputs))
    assert [s.jpeg for s in samples if isinstance(s, Sample)] == [bytes([n]) for n in inputs]


def test_what_listing_rejected_is_passed_on_in_its_place() -> None:
    rejected = Rejected("x", "no image")
    make: Any = Slow()
    inputs = [rejected, *range(MAX_REQUESTS), rejected]
    samples = list(samples_of(make, inputs))
    assert samples[0] is samples[-1] is rejected and len(samples) == MAX_REQUESTS + 2


def test_no_more_than_a_few_inputs_are_ahead() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items())
    for number in range(3):
        assert next(results) == (number, number)
        assert len(taken) <= number + 1 + MAX_REQUESTS
    results.close()
    assert len(taken) < 20


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    def fail(number: int) -> int:
        if number == 5:
            raise StorageError("bucket: cannot be read")
        return number

    found = []
    with pytest.raises(StorageError, match="bucket"):
        for number, _ in in_order(fail, range(100)):
            found.append(number)
    assert found == list(range(5))
