"""Opens an index and searches it; a process that imports what it needs and no more."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.search.index import Index

PARTS = 64  # of the rows, when their bytes are read alone


def measured(folder: Path, searches: int) -> dict[str, float]:
    """Opens an index and searches it."""
    opened_s = []
    for _ in range(5):
        start = time.perf_counter()
        index = Index.open(folder)
        opened_s.append(time.perf_counter() - start)
    queries = np.random.default_rng(1).standard_normal((searches + 1, index.identity.embed_dim))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    searched_s = [_seconds(partial(index.search, query)) for query in queries]
    peak = _peak_bytes()
    numbers = index.rows.reshape(-1).view(np.uint64)
    parts = np.array_split(numbers, PARTS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        together = min(_seconds(lambda: list(pool.map(np.max, parts))) for _ in range(5))
    read_s = min(together, *(_seconds(numbers.max) for _ in range(5)))
    search_s = statistics.median(searched_s[1:])
    return {
        "open_ms": 1e3 * statistics.median(opened_s),
        "first_ms": 1e3 * searched_s[0],
        "search_ms": 1e3 * search_s,
        "memory": peak / index.rows.nbytes,
        "share": read_s / search_s,
        "read_gb_s": index.rows.nbytes / read_s / 1e9,
    }


def _peak_bytes() -> int:
    """Most memory that this process had. Linux's `ru_maxrss` counts its parent's before `exec`."""
    with contextlib.suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
