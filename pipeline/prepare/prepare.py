"""Stage `prepare`: a source to image shards, with manifests that also list rejected inputs."""

from __future__ import annotations

import json
import logging
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.dataset import DATASET, SPLITS, Dataset
from pipeline.artifacts.manifest import CHUNKS, MANIFEST, REJECTED, Manifest
from pipeline.artifacts.offsets import index_path
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.execution_params import ClusterParams
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.stage_params import PrepareParams
from pipeline.console import printable, progress
from pipeline.prepare.empty_split import empty_split
from pipeline.prepare.make_shards import make_shards
from pipeline.prepare.near_duplicates import near_duplicates
from pipeline.prepare.plan import ShardPlan, unfinished
from pipeline.prepare.readers.remote.address_file import address_of
from pipeline.prepare.readers.tar_members import members_of
from pipeline.prepare.rejections import examples, summary
from pipeline.prepare.shard_records import ShardResult, record_file
from pipeline.prepare.sources import open_source
from pipeline.prepare.worker import ShardTask
from pipeline.runtime.node import CODE, on_cluster
from pipeline.storage.files import disk_errors, remove_others, remove_partial, write_json
from pipeline.storage.storage import Storage, open_storage

logger = logging.getLogger(__name__)

INLINE = ClusterParams(mode="inline")
NUM_EXAMPLES = 3


def prepare(params: Params, paths: Layout) -> None:
    """Writes the image shards of a checkout (see `write_image_shards`)."""
    storage = params.data.storage
    write_image_shards(
        params.prepare,
        paths.images,
        params.cluster,
        storage,
        rejected=None if on_cluster() else paths.rejected,  # of a job, only the log comes back
        cache=open_storage(storage or str(paths.listings)),
    )


def write_image_shards(
    params: PrepareParams,
    out: Path,
    cluster: ClusterParams = INLINE,
    storage: str | None = None,
    rejected: Path | None = None,
    workers: int | None = None,
    cache: Storage | None = None,
) -> None:
    """Writes shards, a manifest for each split, and `dataset.json`.

    Args:
        params: The section `prepare`.
        out: Receives the image shards, in a folder a split. Finished shards whose record matches
            are kept; what no manifest lists in the end is deleted.
        cluster: Where to run. The shards do not depend on it.
        storage: Receives the shards (see `ShardFolder`); None leaves them beside their manifests.
        rejected: A JSON file that receives the rejected inputs where the stage fails, as there are
            no manifests then; None writes none.
        workers: See `make_shards`.
        cache: See `open_source`.

    Raises:
        ConfigError: The data set or a split is empty.
        DataError: The source cannot be read, or more inputs than `prepare.max_rejected` were
            rejected.
        StorageError: The folder or the storage cannot be written.
    """
    source = open_source(params, cache)
    folder, size = ShardFolder(out, storage), params.samples_per_shard
    plan = ShardPlan(params.source, _local_data(params), source, folder, size)
    if not plan.num_inputs:
        raise ConfigError(f"{params.path}: the data set is empty; check prepare.path")
    for split in SPLITS:
        if not len(source.inputs[split]):
            raise empty_split(params, split)
    if storage is not None:
        open_storage(storage).require_writable()
    results = _make_all(plan, cluster, workers)
    manifests = {split: _manifest(results[split], split, params) for split in SPLITS}
    _check_rejected(manifests, params.max_rejected, rejected)
    if source.held_out:
        logger.info(
            "%d of %d classes do not occur in training: %s%s",
            len(source.held_out), len(source.classes),
            ", ".join(map(printable, source.held_out[:NUM_EXAMPLES])),
            ", ..." if len(source.held_out) > NUM_EXAMPLES else "",
        )  # fmt: skip
    hashes = {s: np.concatenate([r.hashes for r in results[s].values()]) for s in SPLITS}
    dataset = Dataset(
        name=params.dataset,
        source=params.source,
        classes=source.classes,
        held_out=source.held_out,
        samples={split: manifest.samples for split, manifest in manifests.items()},
        near_duplicates=_near_duplicates(plan.out, manifests, hashes),
        object_classes=source.object_classes,
        held_out_objects=source.held_out_objects,
    )
    for split, manifest in manifests.items():
        manifest.write(out / split, storage)
    dataset.write(out)
    _remove_unlisted(plan.out, results, manifests)


def _local_data(params: PrepareParams) -> Path | None:
    """The path that every worker must see; None for a bucket, and for a part of the code."""
    path = Path(params.path)
    return None if address_of(params.path) or path.is_relative_to(CODE) else path


def _make_all(
    plan: ShardPlan, cluster: ClusterParams, workers: int | None
) -> dict[str, dict[str, ShardResult]]:
    """The results of all shards by split and name, in the order of the plan."""
    found: dict[str, dict[str, ShardResult]] = {split: {} for split in SPLITS}
    kept = made = 0
    with progress("prepare", plan.num_inputs) as bar:

        def keep(task: ShardTask, result: ShardResult) -> None:
            nonlocal kept
            kept += task.size
            found[task.split][task.key.name] = result
            bar.set(kept + made)

        def report(inputs: int) -> None:
            nonlocal made
            made = inputs
            bar.set(kept + made)

        tasks = unfinished(plan, keep)
        first = next(tasks, None)
        if first is not None:
            _begin(plan.out.path)
            for task, result in make_shards(plan, chain([first], tasks), cluster, workers, report):
                found[task.split][task.key.name] = result
    return {split: dict(sorted(found[split].items(), key=_number)) for split in SPLITS}


def _number(item: tuple[str, ShardResult]) -> tuple[int, str]:
    """Orders shards by number: from a million on, their names are longer."""
    return len(item[0]), item[0]


def _begin(out: Path) -> None:
    """Deletes the files that describe shards which are now replaced, and half-written ones."""
    with disk_errors(out):
        (out / DATASET).unlink(missing_ok=True)
        for split in SPLITS:
            (out / split / MANIFEST).unlink(missing_ok=True)
            remove_partial(out / split)


def _remove_unlisted(
    out: ShardFolder, results: dict[str, dict[str, ShardResult]], manifests: dict[str, Manifest]
) -> None:
    """Deletes what a run leaves behind of earlier ones; with a storage, that is every shard."""
    remove_others(out.path, {DATASET, *SPLITS}, logger)
    for split, manifest in manifests.items():
        listed = {MANIFEST}
        if manifest.rejected:
            listed.add(REJECTED)
        if out.storage is None:
            listed |= {CHUNKS, *map(record_file, results[split])}
            shards = [Path(shard.name) for shard in manifest.shards]
            listed |= {path.name for shard in shards for path in (shard, index_path(shard))}
        remove_others(out.path / split, listed, logger)


def _manifest(results: dict[str, ShardResult], split: str, params: PrepareParams) -> Manifest:
    manifest = Manifest(
        kind="images",
        split=split,
        shards=[result.shard for result in results.values() if result.shard is not None],
        identity={"dataset": params.dataset, "source": params.source},
        rejected=[
            {"name": r.name, "reason": r.reason} for part in results.values() for r in part.rejected
        ],
    )
    logger.info(
        "%s: %d images in %d shards, %d rejected",
        split,
        manifest.samples,
        len(manifest.shards),
        len(manifest.rejected),
    )
    return manifest


def _check_rejected(manifests: dict[str, Manifest], limit: float, path: Path | None) -> None:
    rejected = [r for manifest in manifests.values() for r in manifest.rejected]
    total = sum(manifest.samples for manifest in manifests.values()) + len(rejected)
    empty = [split for split, manifest in manifests.items() if not manifest.samples]
    failed = bool(empty) or len(rejected) > limit * total
    if rejected:
        where = "" if failed else f"; {REJECTED} of each split lists them"
        logger.warning("rejected %d of %d inputs%s", len(rejected), total, where)
        for line in summary(rejected):
            logger.warning("  %s", line)
    if path is not None:
        path.unlink(missing_ok=True)  # of an earlier failure
        if failed:
            write_json(path, rejected)
    kept = "" if path is None else f"; {path} lists all of them"
    if len(rejected) > limit * total:
        raise DataError(
            f"{len(rejected)} of {total} inputs cannot be used, more than prepare.max_rejected = "
            f"{limit:g} allows ({examples(rejected)}); fix them or raise prepare.max_rejected{kept}"
        )
    if empty:
        some = examples(manifests[empty[0]].rejected)
        raise DataError(
            f"no image of the {empty[0]} split can be used ({some}); fix the data set{kept}"
        )


def _near_duplicates(
    folder: ShardFolder, manifests: dict[str, Manifest], hashes: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The value of `Dataset.near_duplicates`, which is also logged. Nothing is removed."""
    found: dict[str, Any] = {}
    for other, split in combinations(SPLITS, 2):
        if not (pairs := near_duplicates(hashes[split], hashes[other])):
            continue
        examples = [
            [
                _source_name(folder / split, manifests[split], number),
                _source_name(folder / other, manifests[other], other_number),
            ]
            for number, other_number in pairs[:NUM_EXAMPLES]
        ]
        found[f"{split} in {other}"] = {"images": len(pairs), "examples": examples}
        logger.warning(
            "%d of %d images of %s nearly occur in %s (%s); metrics of %s may be too good",
            len(pairs), manifests[split].samples, split, other,
            "; ".join(" as ".join(map(printable, names)) for names in examples), split,
        )  # fmt: skip
    return found


def _source_name(folder: ShardFolder, manifest: Manifest, number: int) -> str:
    """The name of a sample in its source, by its number in the split."""
    for shard in manifest.shards:
        if number < shard.samples:
            break
        number -= shard.samples
    # not by `ShardFolder.read`, which imports torch
    with folder.open(shard) as file:
        members = members_of(file, folder.where(shard))
        descriptions = (span for name, *span in members if name.endswith(".json"))
        offset, size = next(islice(descriptions, number, None))
        file.seek(offset)
        return json.loads(file.read(size))["source"]
