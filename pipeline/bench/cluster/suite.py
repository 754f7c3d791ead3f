"""`kdeov bench cluster`: training on several workers, and the data plan of a large run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.bench.cluster.ddp import ddp_figures
from pipeline.bench.cluster.unit_costs import unit_figures
from pipeline.bench.figures import Figure, measure
from pipeline.bench.scaling.simulation import simulation_figures
from pipeline.bench.sizes import ClusterSizes

SIZES = ClusterSizes()


def cluster_figures(sizes: ClusterSizes) -> list[Figure]:
    """Measures everything, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as name:
        folder = Path(name)
        return measure(
            {
                "training on two ranks": lambda: ddp_figures(folder, sizes),
                "one image and one checkpoint": lambda: unit_figures(folder / "units", sizes),
                f"the plan of {sizes.plan.samples:,} samples": lambda: simulation_figures(
                    folder / "plan", sizes.plan
                ),
            }
        )
