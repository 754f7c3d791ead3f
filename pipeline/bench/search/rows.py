"""Exact search of many rows, in a process that does nothing else."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.bench.figures import Figure
from pipeline.bench.sizes import SearchSizes
from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IndexIdentity
from pipeline.search.index import Index
from pipeline.search.table import File

BATCH = 1 << 16
PARTS = 64  # of the rows, when their bytes are read alone


def row_figures(folder: Path, sizes: SearchSizes) -> list[Figure]:
    """Measures `open_ms`, `search_ms`, `search_memory` and `memory_share`.

    Args:
        folder: The index to be made.
        sizes: Rows, their width, and searches.
    """
    write_rows(folder, sizes)
    ran = subprocess.run(
        [sys.executable, "-m", __name__, str(folder), str(sizes.searches)],
        check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    found = json.loads(ran.stdout)
    what = f"{sizes.rows:,} rows of {sizes.dim}"
    return [
        Figure("open_ms", found["open_ms"], 50, f"an index of {what}", at_most=True),
        Figure("search_ms", found["search_ms"], 150, f"exact, {what}, once opened", at_most=True),
        Figure("first_search_ms", found["first_ms"], None, "of a process: the rows are mapped"),
        Figure("search_memory", found["memory"], 1.3, "peak of the process, of the rows' bytes",
               at_most=True),
        Figure("memory_share", found["share"], None,
               f"of the speed at which memory is read, {found['read_gb_s']:.0f} GB/s"),
    ]  # fmt: skip


def write_rows(folder: Path, sizes: SearchSizes) -> None:
    """Makes an index of random rows."""
    rng = np.random.default_rng(0)
    identity = IndexIdentity("0" * 64, "0" * 64, sizes.dim, "random")
    with IndexWriter(folder, identity) as writer:
        for start in range(0, sizes.rows, BATCH):
            numbers = range(start, min(start + BATCH, sizes.rows))
            rows = rng.standard_normal((len(numbers), sizes.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            writer.commit(rows, [_file(number) for number in numbers])
        writer.finish()


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _file(number: int) -> File:
    return File(f"{number:08d}.jpg", number.to_bytes(32, "big"), 1, 1, None, None, number)


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
