"""Brings shards that were made before there was a storage to the storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.console import progress
from pipeline.dataset import SPLITS
from pipeline.embed_notes import finished
from pipeline.identity import cache_identity
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.shard_folder import ShardFolder
from pipeline.shards import Manifest
from pipeline.teacher import read_teacher_identity

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


def upload_finished(params: Params, layout: Layout) -> None:
    """Uploads the teacher shards that were embedded here before, with their notes, so that nobody
    makes them again.

    Raises:
        KdeovError: Pictures or teacher are missing, or the storage cannot be written.
    """
    identity = read_teacher_identity(layout.teacher)
    for split in SPLITS:
        manifest = Manifest.read(layout.images / split, "prepare")
        folder = ShardFolder(layout.embeddings / split, params.data.storage)
        wanted = cache_identity(identity, params.embed, split)
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(lambda s: finished(folder, s, wanted), manifest.shards))  # noqa: B023
