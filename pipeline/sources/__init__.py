"""Data sources: what `prepare.source` names."""

from __future__ import annotations

from pipeline.dataset import SPLITS
from pipeline.params import PrepareParams
from pipeline.sources.base import Rejected, Sample, Source
from pipeline.sources.captions_csv import CaptionsCsv
from pipeline.sources.scenes import Scenes

__all__ = ["Rejected", "Sample", "Source", "open_source"]


def open_source(params: PrepareParams) -> Source:
    """The source that params name.

    Raises:
        KdeovError: What the source reads is missing or malformed.
    """
    if params.source == "scenes":
        counts = {split: getattr(params.scenes, split) for split in SPLITS}
        return Scenes(params.path, params.seed, counts)
    return CaptionsCsv(params.path, params.captions_csv, params.seed, params.max_side)
