"""Uploads shards that were made before `data.storage` was set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import cache_identity, read_teacher_identity, shown_classes
from pipeline.artifacts.manifest import upload_chunks
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import progress
from pipeline.embedding.shard_records import find_finished

NUM_UPLOADS = 4  # in parallel


def upload_missing(folder: ShardFolder) -> None:
    """Uploads the shards of a manifest, and its own chunks, that the storage lacks.

    Args:
        folder: Folder of one split.

    Raises:
        KdeovError: A shard is in neither, its bytes differ, or the storage cannot be written.
    """
    manifest = folder.manifest()
    if folder.storage is not None:
        upload_chunks(folder.path, folder.storage)
    with (
        ThreadPoolExecutor(NUM_UPLOADS) as pool,
        progress(
            f"upload {manifest.kind} of {manifest.split}", len(manifest.shards), "shards"
        ) as bar,
    ):
        for _ in pool.map(folder.upload, manifest.shards):
            bar.update()


def upload_finished(params: Params, layout: Layout) -> None:
    """Uploads the finished teacher shards of `out/` with their records, so that the cluster does
    not embed them again.

    Raises:
        KdeovError: Images or teacher are missing, or the storage cannot be written.
    """
    identity = read_teacher_identity(layout.teacher)
    classes = shown_classes(params.embed, layout.images)
    for split in SPLITS:
        manifest = ShardFolder(layout.images / split, params.data.storage).manifest()
        folder = ShardFolder(layout.embeddings / split, params.data.storage)
        wanted = cache_identity(identity, params.embed, split, classes)
        with ThreadPoolExecutor(NUM_UPLOADS) as pool:
            list(pool.map(lambda s: find_finished(folder, s, wanted), manifest.shards))  # noqa: B023
