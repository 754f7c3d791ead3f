"""Requests that come together are computed together, and each gets its own answer."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.serve.batcher import MicroBatcher


def run(items: list[int], size: int = 4) -> tuple[list[object], list[int]]:
    """Answers of items that come at once, and the sizes of their batches."""
    sizes: list[int] = []

    def double(batch: list[int]) -> list[int]:
        if -1 in batch:
            raise ValueError("no number")
        return [2 * item for item in batch]

    async def ask() -> list[object]:
        batcher = MicroBatcher(double, size, 0.05, sizes.append)
        try:
            return await asyncio.gather(*map(batcher, items), return_exceptions=True)
        finally:
            await batcher.close()

    return asyncio.run(ask()), sizes


def test_items_share_batches_up_to_their_size() -> None:
    answers, sizes = run(list(range(10)))
    assert answers == [2 * n for n in range(10)]
    assert sum(sizes) == 10 and max(sizes) == 4 and len(sizes) == 3


def test_an_item_at_fault_fails_alone() -> None:
    answers, _ = run([1, -1, 3])
    assert answers[0] == 2 and answers[2] == 6
    assert isinstance(answers[1], ValueError)


def test_an_item_whose_client_has_gone_is_not_computed() -> None:
    computed: list[int] = []

    def note(batch: list[int]) -> list[int]:
        computed.extend(batch)
        return batch

    async def ask() -> int:
        batcher = MicroBatcher(note, 4, 0.2)
        gone = asyncio.ensure_future(batcher(1))
        await asyncio.sleep(0)
        gone.cancel()
        try:
            return await batcher(2)
        finally:
            await batcher.close()

    assert asyncio.run(ask()) == 2
    assert computed == [2]


def test_one_item_waits_no_longer_than_it_must() -> None:
    async def ask() -> list[int]:
        batcher = MicroBatcher(lambda batch: batch, 32, 0.01)
        try:
            return [await asyncio.wait_for(batcher(n), 60) for n in range(5)]
        finally:
            await batcher.close()

    assert asyncio.run(ask()) == list(range(5))


@pytest.mark.parametrize("size", [1, 2])
def test_small_batches_answer_everything(size: int) -> None:
    answers, sizes = run(list(range(7)), size)
    assert answers == [2 * n for n in range(7)] and max(sizes) <= size
