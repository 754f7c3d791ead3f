"""Exact search of many rows, in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.bench.figures import Figure
from pipeline.bench.sizes import SearchSizes
from pipeline.search.build.writer import IndexWriter
from pipeline.search.identity import IndexIdentity
from pipeline.search.table import File

BATCH = 1 << 16
MEASURED = str(Path(__file__).with_name("bare_search.py"))


def row_figures(folder: Path, sizes: SearchSizes) -> list[Figure]:
    """Measures `open_ms`, `search_ms`, `search_memory` and `memory_share`.

    Args:
        folder: The index to be made.
        sizes: Rows, their width, and searches.
    """
    write_rows(folder, sizes)
    ran = subprocess.run(
        [sys.executable, MEASURED, str(folder), str(sizes.searches)],
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


def _file(number: int) -> File:
    return File(f"{number:08d}.jpg", number.to_bytes(32, "big"), 1, 1, None, None, number)
