"""Calls are timed in turn, and after a rest none pays for the threads of another."""

from __future__ import annotations

import time

from pipeline.evaluation.shared.timing import interleaved


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]  # the first ones warm up
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_a_rest_and_the_call_that_follows_it_are_not_timed() -> None:
    rest_s, calls = 0.05, 0

    def slow_at_first() -> None:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:  # the first call after a rest; call 1 warms up
            time.sleep(rest_s)

    begin = time.perf_counter()
    times = interleaved({"a": slow_at_first}, 3, rest_s)
    assert time.perf_counter() - begin >= 6 * rest_s
    assert calls == 7 and sorted(times["a"])[1] < rest_s
