"""Data sources by the name that `prepare.source` gives."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.readers.base import Source
from pipeline.prepare.sources.arrays import arrays
from pipeline.prepare.sources.captions_csv import captions_csv
from pipeline.prepare.sources.cifar import cifar10, cifar100
from pipeline.prepare.sources.coco import coco
from pipeline.prepare.sources.flickr import flickr
from pipeline.prepare.sources.image_folder import image_folder
from pipeline.prepare.sources.scenes import scenes
from pipeline.prepare.sources.shards import shards

# arguments: path, options, seed, max_image_side
OPENERS: dict[str, Callable[..., Source]] = {
    "scenes": scenes,
    "captions_csv": captions_csv,
    "coco": coco,
    "flickr": flickr,
    "image_folder": image_folder,
    "arrays": arrays,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "shards": shards,
}


def open_source(params: PrepareParams) -> Source:
    """Lists the inputs of the source that params name.

    Raises:
        KdeovError: Its files are missing or malformed, or do not fit the params.
    """
    options = getattr(params, params.source)
    return OPENERS[params.source](params.path, options, params.seed, params.max_image_side)
