"""Batches one ahead: in order, never more, and with the errors and the end of their source."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdeov.errors import DataError
from kdeov.weights.device import upload
from pipeline.runtime.prefetch import Download, one_ahead, prefetched

WAIT_S = 60


class Beside:
    """The side of a machine without a GPU: another thread, whose marks are the items' numbers."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.waited: list[tuple[int, Any]] = []
        self.marks = 0

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self.threads.append(threading.current_thread().name)
        yield

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def wait(self, mark: int, item: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.waited.append((mark, item))


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_come_in_order_and_each_after_the_wait_for_its_mark(count: int) -> None:
    side = Beside()
    seen = []
    for item in one_ahead(range(count), lambda batch: 10 * batch, side):
        assert side.waited[-1] == (len(seen) + 1, item)
        seen.append(item)
    assert seen == [10 * batch for batch in range(count)]
    assert side.threads == ["prefetch"] and not prefetch_threads()


def test_one_batch_is_ahead_and_no_more() -> None:
    prepared = [threading.Event() for _ in range(4)]

    def prepare(batch: int) -> int:
        prepared[batch].set()
        return batch

    batches = one_ahead(range(4), prepare, Beside())
    for batch in range(3):
        assert next(batches) == batch
        assert prepared[batch + 1].wait(WAIT_S)  # while the step of this batch would compute
        assert not any(event.is_set() for event in prepared[batch + 2 :])
    batches.close()  # type: ignore[attr-defined]


def test_the_first_batch_is_read_in_the_calling_thread_where_loader_processes_belong() -> None:
    readers = []

    def source() -> Iterator[int]:
        for number in range(3):
            readers.append(threading.current_thread().name)
            yield number

    assert list(one_ahead(source(), lambda batch: batch, Beside())) == [0, 1, 2]
    assert readers == [threading.main_thread().name, "prefetch", "prefetch"]


@pytest.mark.parametrize("where", ["source", "prepare"])
def test_an_error_is_raised_after_the_batches_before_it(where: str) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        if where == "source":
            raise DataError("shard 3 is damaged")
        yield 3

    def prepare(batch: int) -> int:
        if batch == 3:
            raise DataError("shard 3 is damaged")
        return batch

    seen = []
    with pytest.raises(DataError, match="shard 3 is damaged"):
        for item in one_ahead(source(), prepare, Beside()):
            seen.append(item)
    assert seen == [0, 1, 2] and not prefetch_threads()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_closing_amid_an_endless_source_ends_its_thread(taken: int) -> None:
    batches = one_ahead(itertools.count(), lambda batch: batch, Beside())
    assert [next(batches) for _ in range(taken)] == list(range(taken))
    assert prefetch_threads()
    batches.close()  # type: ignore[attr-defined]
    assert not prefetch_threads()


def test_on_a_cpu_a_batch_is_read_when_it_is_asked_for() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(3):
            read.append(number)
            yield number

    batches = prefetched(source(), lambda batch: batch + 1, "cpu")
    assert (next(batches), read) == (1, [0])
    assert (list(batches), read) == ([2, 3], [0, 1, 2])
    assert not prefetch_threads()


def test_on_a_cpu_nothing_is_copied_to_and_fro() -> None:
    tensor = torch.arange(6).view(2, 3)
    assert upload(tensor, "cpu").data_ptr() == tensor.data_ptr()
    assert Download(tensor).result().data_ptr() == tensor.data_ptr()
