"""`kdeov bench cluster`: training on several workers, and the data plan of a run that no single
machine could do.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from pipeline.bench.ddp import ddp_figures
from pipeline.bench.figures import Figure
from pipeline.bench.simulation import simulation_figures
from pipeline.bench.sizes import ClusterSizes
from pipeline.bench.unit_costs import unit_figures

logger = logging.getLogger(__name__)

SIZES = ClusterSizes()


def cluster_figures(sizes: ClusterSizes) -> list[Figure]:
    """Measures everything, in a temporary folder that is gone afterwards.

    Args:
        sizes: How much.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kdeov-bench-") as folder:
        logger.info("1 of 3: training on two ranks, %d rounds", sizes.rounds)
        figures = ddp_figures(Path(folder), sizes)
        logger.info("2 of 3: one picture and one checkpoint")
        figures += unit_figures(Path(folder) / "units", sizes)
        logger.info("3 of 3: the plan of %s samples", f"{sizes.plan.samples:,}")
        figures += simulation_figures(Path(folder) / "plan", sizes.plan)
    logger.info("all measured in %.0f s", time.monotonic() - start)
    return figures
