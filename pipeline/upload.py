"""Brings shards that were made before there was a storage to the storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.console import progress
from pipeline.shard_folder import ShardFolder

UPLOADS = 4  # at once
MADE_BY = {"images": "prepare", "teacher": "embed"}


def upload_missing(folder: ShardFolder) -> None:
    """Uploads the shards of a manifest that the storage lacks, from the folder.

    Args:
        folder: Of one split.

    Raises:
        KdeovError: A shard is in neither, its bytes differ, or the storage cannot be written.
    """
    manifest = folder.manifest("prepare")
    made_by = MADE_BY[manifest.kind]
    with (
        ThreadPoolExecutor(UPLOADS) as pool,
        progress(
            f"upload {manifest.kind} of {manifest.split}", len(manifest.shards), "shards"
        ) as meter,
    ):
        for _ in pool.map(lambda shard: folder.upload(shard, made_by), manifest.shards):
            meter.advance()
