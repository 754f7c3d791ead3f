"""What a data source makes of its inputs."""

from __future__ import annotations

from pipeline.artifacts.dataset import SPLITS
from pipeline.prepare.readers.base import Rejected, Sample, Source


def made(source: Source, *splits: str) -> dict[str, Sample | Rejected]:
    """Samples and refusals of some splits, or of all, by what the source calls them."""
    results = [
        item if isinstance(item, Rejected) else source.make(item)
        for split in splits or SPLITS
        for item in source.inputs[split]
    ]
    return {r.name if isinstance(r, Rejected) else r.source: r for r in results}
