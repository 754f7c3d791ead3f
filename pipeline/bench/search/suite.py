"""`kdeov bench search`: exact search of many rows, and the commands that index and search."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.bench.figures import Figure, measure
from pipeline.bench.run.towers import write_student
from pipeline.bench.search.commands import command_figures
from pipeline.bench.search.rows import row_figures
from pipeline.bench.sizes import RunSizes, SearchSizes

SIZES = SearchSizes()


def search_figures(sizes: SearchSizes) -> list[Figure]:
    """Measures everything, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as name:
        folder = Path(name)
        write_student(folder / "export", RunSizes(dim=sizes.dim, image_size=sizes.image_size))
        return measure(
            {
                "rows": lambda: row_figures(folder / "rows", sizes),
                "processes": lambda: command_figures(folder, folder / "export", sizes),
            }
        )
