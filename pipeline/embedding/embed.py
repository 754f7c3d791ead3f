"""Stage `embed`: the teacher's unit vectors of several views of each image and of each caption,
in shards.

Every finished shard has a note that says what it was made from. So a killed run goes on where it
was, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import PRECOMPUTED, cache_identity, read_teacher_identity
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import MANIFEST, Manifest, Shard
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import EmbedParams, Params
from pipeline.config.paths import Layout
from pipeline.console import progress
from pipeline.embedding.shard_records import finished, record_path
from pipeline.embedding.worker import EmbedConfig, EmbedWorker, RayEmbedWorker, ShardTask
from pipeline.runtime.node import on_cluster
from pipeline.runtime.pool import Pool
from pipeline.runtime.ray_session import (
    gpus_of_ray,
    one_line_errors_of_ray,
    ray_session,
    share_machines,
)
from pipeline.storage.files import remove_partial
from pipeline.storage.storage import Storage

logger = logging.getLogger(__name__)

REQUESTS = 8  # to a storage at once
NAMED = 5  # shards that a line of the log names


def embed(params: Params, paths: Layout) -> None:
    """Writes the teacher shards of a checkout (see `write_teacher_shards`)."""
    write_teacher_shards(
        params.embed,
        params.cluster,
        paths.images,
        paths.teacher,
        paths.embeddings,
        params.data.storage,
    )


def write_teacher_shards(
    params: EmbedParams,
    cluster: ClusterParams,
    images: Path,
    teacher: Path,
    out: Path,
    storage: str | None = None,
) -> None:
    """Writes teacher shards and a manifest for each split.

    Args:
        params: Views and precision.
        cluster: Where to run.
        images: What `prepare` wrote.
        teacher: What the `teacher` stage wrote.
        out: Where manifests go, and shards; finished shards that fit are kept.
        storage: Where shards go instead, and those of `images` are (see `ShardFolder`).

    Raises:
        KdeovError: Images or teacher are missing or damaged, or the disk is full.
    """
    teacher_identity = read_teacher_identity(teacher)
    if teacher_identity["library"] == PRECOMPUTED and params.views != 1:
        raise KdeovError(
            f"embed.views is {params.views}, and the teacher's vectors are of one view an image; "
            "set it to 1"
        )
    if storage is not None:
        Storage(storage).require_writable()
    image_shards, ours = ShardFolder(images, storage), ShardFolder(out, storage)
    manifests = {split: (image_shards / split).manifest("prepare") for split in SPLITS}
    identities = {split: cache_identity(teacher_identity, params, split) for split in SPLITS}
    made: dict[str, dict[str, Shard]] = {}
    tasks: list[ShardTask] = []
    for split, manifest in manifests.items():
        folder = ours / split
        made[split] = _keep(folder, manifest, identities[split])
        tasks += [
            ShardTask(split, image_shards / split, shard, folder)
            for shard in manifest.shards
            if shard.name not in made[split]
        ]
    if tasks:
        with progress("embed", sum(task.shard.samples for task in tasks)) as bar:
            for task, shard in make_shards(tasks, params, cluster, teacher, bar.set):
                made[task.split][shard.name] = shard
    for split, manifest in manifests.items():
        shards = [made[split][shard.name] for shard in manifest.shards]
        Manifest("teacher", split, shards, identities[split]).write(out / split)


def _keep(out: ShardFolder, manifest: Manifest, identity: dict[str, Any]) -> dict[str, Shard]:
    """The finished teacher shards that still fit, by name. What does not belong in the folder is
    deleted: DVC keeps it between runs.
    """
    out.path.mkdir(parents=True, exist_ok=True)
    remove_partial(out.path)
    (out.path / MANIFEST).unlink(missing_ok=True)
    with (
        ThreadPoolExecutor(os.cpu_count() if out.storage is None else REQUESTS) as pool,
        progress(f"compare {manifest.split}", len(manifest.shards), "shards") as bar,
    ):
        found = []
        for shard in pool.map(lambda shard: finished(out, shard, identity), manifest.shards):
            found.append(shard)
            bar.update()
    _remove_unlisted(out, manifest)
    kept = {shard.name: shard for shard in found if isinstance(shard, Shard)}
    again = defaultdict(list)
    for shard, why in zip(manifest.shards, found, strict=True):
        if isinstance(why, str):
            again[why].append(shard.name)
    for why, names in again.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        logger.info(
            "embed %s: made again: %s%s: %s", manifest.split, ", ".join(names[:NAMED]), more, why
        )
    if kept:
        logger.info(
            "embed %s: keeping %d of %d finished shards", manifest.split, len(kept), len(found)
        )
    return kept


def _remove_unlisted(out: ShardFolder, manifest: Manifest) -> None:
    """With a storage, nothing but the manifest is listed."""
    shards = manifest.shards if out.storage is None else []
    listed = {name for s in shards for name in (s.name, record_path(out.path, s).name)}
    for path in out.path.iterdir():
        if path.name not in listed:
            logger.info("embed: %s is no longer listed and is deleted", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_shards(
    tasks: list[ShardTask],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    on_progress: Callable[[int], object],
) -> Iterator[tuple[ShardTask, Shard]]:
    """Makes shards where `cluster.mode` says, in any order.

    Args:
        tasks: The shards.
        params: Views and precision.
        cluster: Where.
        teacher: Folder of the teacher.
        told: Hears how many images are done in all.

    Yields:
        Each task with the shard that it made.

    Raises:
        KdeovError: A shard cannot be made, or workers died too often.
    """
    if cluster.mode == "inline":
        finished = 0
        worker = EmbedWorker(
            EmbedConfig(params, teacher, cluster.use_gpu, cluster.embed_batch, None)
        )
        for task in tasks:
            before = finished
            yield task, worker.make(task, lambda _, done: on_progress(before + done))  # noqa: B023
            finished += task.shard.samples
        return
    with ray_session(cluster.max_workers), one_line_errors_of_ray():
        yield from _make_on_ray(tasks, params, cluster, teacher, on_progress)


def _make_on_ray(
    tasks: list[ShardTask],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    on_progress: Callable[[int], object],
) -> Iterator[tuple[ShardTask, Shard]]:
    import ray

    gpus = gpus_of_ray(cluster.use_gpu)
    workers, cpus = share_machines(min(len(tasks), gpus or cluster.max_workers), bool(gpus))
    if gpus and on_cluster():  # those that wait for room make the cluster grow, where it can
        workers = min(len(tasks), max(gpus, cluster.max_workers))
    logger.info("embedding on Ray, %s: %d", "one worker a GPU" if gpus else "workers", workers)
    config = EmbedConfig(params, teacher, bool(gpus), cluster.embed_batch, cpus)
    kind = ray.remote(RayEmbedWorker).options(num_cpus=cpus, num_gpus=1 if gpus else 0)
    yield from Pool(tasks, kind, config, workers, cluster.max_failures).run(on_progress)
