"""Wall times of calls that are compared with each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; the calls take turns, so that a busy moment hits all.

    Args:
        calls: What is timed, by name; each is called once more before, to warm up.
        repeats: Rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over rounds of one call's seconds by another's."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
