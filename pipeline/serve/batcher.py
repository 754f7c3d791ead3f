"""Single requests as the batches of one forward pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Collects items that come at about the same time, and computes them together in a thread.

    Args:
        run: From a list of items to the list of their results.
        size: Items of a batch.
        wait_s: How long the first item of a batch waits for others.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R]],
        size: int,
        wait_s: float,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._run, self._size, self._wait_s, self._on_batch = run, size, wait_s, on_batch
        self._queue: asyncio.Queue[tuple[T, asyncio.Future[R]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "batch")
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """The result of an item.

        Raises:
            Exception: What `run` raises for this item alone.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return await future

    async def close(self) -> None:
        """Ends the thread; nothing may wait any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            waiting = [entry for entry in await self._batch() if not entry[1].done()]
            if not waiting:  # their clients have gone
                continue
            self._on_batch(len(waiting))
            try:
                self._answer(waiting, await self._compute([item for item, _ in waiting]))
            except Exception as error:  # noqa: BLE001 (each request gets its own)
                if len(waiting) == 1:
                    _fail(waiting[0][1], error)
                    continue
                for entry in waiting:  # an item is at fault: each by itself
                    try:
                        self._answer([entry], await self._compute([entry[0]]))
                    except Exception as own:  # noqa: BLE001
                        _fail(entry[1], own)

    async def _batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_s
        while len(batch) < self._size:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            try:
                async with asyncio.timeout_at(until):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    async def _compute(self, items: list[T]) -> Sequence[R]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)

    def _answer(self, waiting: Sequence[tuple[T, asyncio.Future[R]]], results: Sequence[R]) -> None:
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(result)


def _fail(future: asyncio.Future[R], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
