"""Brings shards that were made before there was a storage to the storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.console import progress
from pipeline.shard_folder import ShardFolder

UPLOADS = 4  # at once, each with up to 100 MB in memory


def upload_missing(folder: ShardFolder, made_by: str) -> None:
    """Uploads the shards of a manifest that the storage lacks, from the folder.

    Args:
        folder: Of one split.
        made_by: The stage to run where a shard is in neither.

    Raises:
        KdeovError: A shard is in neither, its bytes differ, or the storage cannot be written.
    """
    manifest = folder.manifest(made_by)
    with (
        ThreadPoolExecutor(UPLOADS) as pool,
        progress(f"upload {folder.path.name}", len(manifest.shards), "shards") as meter,
    ):
        for _ in pool.map(lambda shard: folder.upload(shard, made_by), manifest.shards):
            meter.advance()
