"""Wall times of calls that are compared with each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved(
    calls: dict[str, Callable[[], object]], repeats: int, rest_s: float = 0
) -> dict[str, list[float]]:
    """Times calls in turn, round by round, so that load from other processes affects all alike.

    Args:
        calls: Functions by name. Each runs once more beforehand, to warm up.
        repeats: Number of rounds.
        rest_s: Pause in seconds before each call, after which it runs once untimed. Threads of the
            call before it, which wait for work by spinning, then hold no core.

    Returns:
        Seconds of each call, one number a round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            if rest_s:
                time.sleep(rest_s)
                call()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over rounds of the ratio of two calls' times."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
