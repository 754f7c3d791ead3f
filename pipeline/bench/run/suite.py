"""`kdeov bench run`: the exported student against other towers, and the commands that run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.bench.figures import Figure, measure
from pipeline.bench.run.commands import command_figures
from pipeline.bench.run.latencies import latency_figures
from pipeline.bench.run.towers import write_student
from pipeline.bench.sizes import RunSizes

SIZES = RunSizes()


def run_figures(sizes: RunSizes) -> list[Figure]:
    """Measures everything, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as name:
        folder = Path(name)
        export = folder / "export"
        write_student(export, sizes)
        return measure(
            {
                "one image on one thread": lambda: latency_figures(export, sizes),
                "processes": lambda: command_figures(folder / "commands", export, sizes),
            }
        )
