"""Stage `embed`: the teacher's unit embeddings of the views and captions of every image, in teacher
shards.

Each finished shard has a record of what it was computed from (`shard_records.py`). A killed run
resumes after the last finished shard, and a change recomputes only the shards that it affects.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import (
    PRECOMPUTED,
    cache_identity,
    read_teacher_identity,
    shown_classes,
)
from pipeline.artifacts.manifest import CHUNKS, MANIFEST, Manifest
from pipeline.artifacts.offsets import index_path
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.stage_params import EmbedParams
from pipeline.console import progress
from pipeline.embedding.shard_records import find_finished, record_path
from pipeline.embedding.worker import EmbedConfig, EmbedWorker, RayEmbedWorker, ShardTask
from pipeline.runtime.node import on_cluster
from pipeline.runtime.pool import Pool
from pipeline.runtime.ray_session import (
    gpus_of_ray,
    one_line_errors_of_ray,
    ray_session,
    share_machines,
)
from pipeline.storage.files import remove_others, remove_partial
from pipeline.storage.storage import MAX_REQUESTS, open_storage

logger = logging.getLogger(__name__)

NUM_SHARDS_NAMED = 5  # in a line of the log


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
    """Writes the teacher shards and the manifest of each split.

    Args:
        params: Views and precision.
        cluster: Where to run.
        images: Output folder of `prepare`.
        teacher: Output folder of the `teacher` stage.
        out: Receives manifests and shards. Finished shards whose record matches are kept.
        storage: Holds the shards of `images` and receives those of `out` (see `ShardFolder`); None
            leaves shards beside their manifests.

    Raises:
        ConfigError: `embed.views` is not 1, or there are regions, and the teacher is a table of
            embeddings.
        KdeovError: Images or teacher are missing or damaged, or the disk is full.
    """
    teacher_identity = read_teacher_identity(teacher)
    if teacher_identity["library"] == PRECOMPUTED and params.views != 1:
        raise ConfigError(
            f"embed.views is {params.views}, but this teacher has one embedding an image; "
            "set it to 1"
        )
    if teacher_identity["library"] == PRECOMPUTED and params.regions.count:
        raise ConfigError(
            f"embed.regions.count is {params.regions.count}, but this teacher has one embedding an "
            "image; set it to 0"
        )
    classes = shown_classes(params, images)
    if storage is not None:
        open_storage(storage).require_writable()
    image_shards, teacher_shards = ShardFolder(images, storage), ShardFolder(out, storage)
    manifests = {split: (image_shards / split).manifest() for split in SPLITS}
    identities = {
        split: cache_identity(teacher_identity, params, split, classes) for split in SPLITS
    }
    finished: dict[str, dict[str, Shard]] = {}
    tasks: list[ShardTask] = []
    for split, manifest in manifests.items():
        folder = teacher_shards / split
        finished[split] = _keep_finished(folder, manifest, identities[split])
        tasks += [
            ShardTask(split, image_shards / split, shard, folder)
            for shard in manifest.shards
            if shard.name not in finished[split]
        ]
    if tasks:
        with progress("embed", sum(task.shard.samples for task in tasks)) as bar:
            for task, shard in embed_shards(tasks, params, cluster, teacher, bar.set, classes):
                finished[task.split][shard.name] = shard
    for split, manifest in manifests.items():
        shards = [finished[split][shard.name] for shard in manifest.shards]
        Manifest("teacher", split, shards, identities[split]).write(out / split, storage)


def _keep_finished(
    out: ShardFolder, manifest: Manifest, identity: dict[str, Any]
) -> dict[str, Shard]:
    """The finished teacher shards that are still valid, by name.

    Deletes unlisted files of the folder: DVC keeps them between runs.
    """
    out.path.mkdir(parents=True, exist_ok=True)
    remove_partial(out.path)
    (out.path / MANIFEST).unlink(missing_ok=True)
    with (
        ThreadPoolExecutor(os.cpu_count() if out.storage is None else MAX_REQUESTS) as pool,
        progress(f"compare {manifest.split}", len(manifest.shards), "shards") as bar,
    ):
        found = []
        for result in pool.map(lambda shard: find_finished(out, shard, identity), manifest.shards):
            found.append(result)
            bar.update()
    _remove_unlisted(out, manifest)
    kept = {shard.name: shard for shard in found if isinstance(shard, Shard)}
    invalid = defaultdict(list)  # names of shards by the reason
    for shard, result in zip(manifest.shards, found, strict=True):
        if isinstance(result, str):
            invalid[result].append(shard.name)
    for reason, names in invalid.items():
        more = f" and {len(names) - NUM_SHARDS_NAMED} more" if len(names) > NUM_SHARDS_NAMED else ""
        logger.info(
            "embed %s: recomputing %s%s: %s",
            manifest.split,
            ", ".join(names[:NUM_SHARDS_NAMED]),
            more,
            reason,
        )
    if kept:
        logger.info(
            "embed %s: keeping %d of %d finished shards", manifest.split, len(kept), len(found)
        )
    return kept


def _remove_unlisted(out: ShardFolder, manifest: Manifest) -> None:
    """Deletes what the manifest does not list; with a storage, that is every file. Of the chunks of
    the last manifest, the next one keeps those that it lists.
    """
    shards = manifest.shards if out.storage is None else []
    files = [(out.path / s.name, record_path(out.path, s)) for s in shards]
    listed = {p.name for shard, record in files for p in (shard, record, index_path(shard))}
    remove_others(out.path, listed | {CHUNKS}, logger)


def embed_shards(
    tasks: list[ShardTask],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    on_progress: Callable[[int], object],
    classes: Sequence[str] = (),
) -> Iterator[tuple[ShardTask, Shard]]:
    """Computes teacher shards in this process or on Ray, as `cluster.mode` says.

    Args:
        tasks: The shards to compute.
        params: Views and precision.
        cluster: Where to run.
        teacher: Folder of the teacher.
        on_progress: Called with the number of images embedded so far, over all tasks.
        classes: Names of the objects that regions may show.

    Yields:
        Each task with its teacher shard, in the order in which they finish.

    Raises:
        KdeovError: A shard cannot be computed, or workers died more than `cluster.max_failures`
            times.
    """
    if cluster.mode == "inline":
        done = 0
        worker = EmbedWorker(
            EmbedConfig(params, teacher, cluster.use_gpu, cluster.embed_batch, None, tuple(classes))
        )
        for task in tasks:
            before = done
            yield task, worker.run(task, lambda _, images: on_progress(before + images))  # noqa: B023
            done += task.shard.samples
        return
    with ray_session(cluster.max_workers), one_line_errors_of_ray():
        yield from _embed_on_ray(tasks, params, cluster, teacher, on_progress, classes)


def _embed_on_ray(
    tasks: list[ShardTask],
    params: EmbedParams,
    cluster: ClusterParams,
    teacher: Path,
    on_progress: Callable[[int], object],
    classes: Sequence[str],
) -> Iterator[tuple[ShardTask, Shard]]:
    import ray

    gpus = gpus_of_ray(cluster.use_gpu)
    workers, cpus = share_machines(min(len(tasks), gpus or cluster.max_workers), bool(gpus))
    if gpus and on_cluster():  # workers that wait for a GPU make the cluster grow, where it can
        workers = min(len(tasks), max(gpus, cluster.max_workers))
    logger.info("embedding on Ray, %s: %d", "one worker a GPU" if gpus else "workers", workers)
    config = EmbedConfig(params, teacher, bool(gpus), cluster.embed_batch, cpus, tuple(classes))
    kind = ray.remote(RayEmbedWorker).options(num_cpus=cpus, num_gpus=1 if gpus else 0)
    yield from Pool(tasks, kind, config, workers, cluster.max_failures).run(on_progress)
