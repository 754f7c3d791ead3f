"""Data sources by the name that `prepare.source` gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdeov.errors import ConfigError
from pipeline.config.stage_params import PrepareParams
from pipeline.prepare.readers.base import Source
from pipeline.prepare.readers.remote.address_file import address_of
from pipeline.prepare.readers.remote.bucket_folder import listed_bucket
from pipeline.prepare.sources.arrays import arrays
from pipeline.prepare.sources.captions_csv import captions_csv
from pipeline.prepare.sources.cifar import cifar10, cifar100
from pipeline.prepare.sources.coco import coco
from pipeline.prepare.sources.flickr import flickr
from pipeline.prepare.sources.image_folder import image_folder
from pipeline.prepare.sources.parquet import parquet
from pipeline.prepare.sources.scenes import scenes
from pipeline.prepare.sources.shards import shards
from pipeline.storage.bucket import BucketStorage
from pipeline.storage.storage import Storage

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
    "parquet": parquet,
}
IN_BUCKETS = ("image_folder", "shards", "parquet")


def open_source(params: PrepareParams, cache: Storage | None = None) -> Source:
    """Lists the inputs of the source that params name.

    Args:
        params: The section `prepare`.
        cache: Keeps what listing a bucket reads, so that the next run lists it at once; None keeps
            nothing.

    Raises:
        KdeovError: Its files are missing or malformed, or do not fit the params; or it is in a
            bucket that changes meanwhile.
    """
    options, opener = getattr(params, params.source), OPENERS[params.source]
    address = address_of(params.path)
    if address is None:
        return opener(Path(params.path), options, params.seed, params.max_image_side)
    if params.source not in IN_BUCKETS:
        raise ConfigError(
            f"{address}: the source {params.source} reads a folder of this machine; copy the data "
            f"there, or use one of {', '.join(IN_BUCKETS)}"
        )
    with listed_bucket(BucketStorage(address), cache) as folder:
        return opener(folder, options, params.seed, params.max_image_side)
