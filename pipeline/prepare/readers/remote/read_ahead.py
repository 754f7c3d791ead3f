"""Work that waits for a network or a disk, done for the next few items and given in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from pipeline.prepare.readers.base import Rejected, Sample
from pipeline.storage.storage import MAX_REQUESTS

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    action: Callable[[T], R], items: Iterable[T], width: int = MAX_REQUESTS
) -> Iterator[tuple[T, R]]:
    """Each item with the result of an action, which threads call for the next few items.

    Args:
        action: What to do with an item.
        items: Taken as they are needed.
        width: Threads, and so results in memory.

    Raises:
        Exception: Of the action, in its place in the order.
    """
    rest = iter(items)
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(width)
    try:
        while True:
            for item in islice(rest, width - len(waiting)):
                waiting.append((item, pool.submit(action, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def samples_of(
    make: Callable[[Any], Sample | Rejected], inputs: Iterable[Any]
) -> Iterator[Sample | Rejected]:
    """The sample of each input, in order.

    A `make` that waits for a network has `waits` set, and two halves: `fetch(input)`, which threads
    call ahead, and `made(input, fetched)`.

    Args:
        make: Makes a sample of an input (see `Source.make`).
        inputs: The inputs; those that are `Rejected` already are passed on.

    Raises:
        StorageError: A bucket cannot be read.
    """
    if not getattr(make, "waits", False):
        for item in inputs:
            yield item if isinstance(item, Rejected) else make(item)
        return
    halves: Any = make

    def fetch(item: Any) -> Any:
        return item if isinstance(item, Rejected) else halves.fetch(item)

    for item, data in in_order(fetch, inputs):
        yield item if isinstance(item, Rejected) else halves.made(item, data)
