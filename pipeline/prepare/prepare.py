"""Stage `prepare`: a source to image shards, with manifests that also list rejected inputs."""

from __future__ import annotations

import json
import logging
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import ConfigError, DataError
from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.stage_params import PrepareParams
from pipeline.console import printable, progress
from pipeline.prepare.empty_split import empty_split
from pipeline.prepare.make_shards import ShardMaker, ShardResult, choose_num_processes
from pipeline.prepare.near_duplicates import near_duplicates
from pipeline.prepare.readers.tar_members import members_of
from pipeline.prepare.rejections import examples, summary
from pipeline.prepare.sources import open_source
from pipeline.storage.files import write_json, writing_folder
from pipeline.storage.storage import open_storage

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 3


def prepare(params: Params, paths: Layout) -> None:
    """Writes the image shards of a checkout (see `write_image_shards`)."""
    write_image_shards(
        params.prepare, paths.images, storage=params.data.storage, rejected=paths.rejected
    )


def write_image_shards(
    params: PrepareParams,
    out: Path,
    processes: int | None = None,
    storage: str | None = None,
    rejected: Path | None = None,
) -> None:
    """Writes shards, a manifest for each split, and `dataset.json`.

    Args:
        params: The section `prepare`.
        out: Receives the folder of image shards, with a folder a split.
        processes: Number of processes that read images; None chooses (see
            `choose_num_processes`). The shards do not depend on it.
        storage: Receives the shards (see `ShardFolder`); None leaves them beside their manifests.
        rejected: A JSON file that receives the rejected inputs where the stage fails, as their
            manifests are discarded then; None writes none.

    Raises:
        ConfigError: The data set or a split is empty.
        DataError: The source cannot be read, or more inputs than `prepare.max_rejected` were
            rejected.
    """
    source = open_source(params)
    total = sum(len(source.inputs[split]) for split in SPLITS)
    if not total:
        raise ConfigError(f"{params.path}: the data set is empty; check prepare.path")
    for split in SPLITS:
        if not len(source.inputs[split]):
            raise empty_split(params, split)
    size = params.samples_per_shard
    processes = processes or choose_num_processes(source.make, source.inputs, size)
    results: dict[str, list[ShardResult]] = {split: [] for split in SPLITS}
    if storage is not None:
        open_storage(storage).require_writable()
    with writing_folder(out) as path:
        folder = ShardFolder(path, storage)
        with (
            ShardMaker(source.make, processes) as maker,
            progress("prepare", total) as bar,
        ):
            for split, result in maker.make(folder, source.inputs, size, bar.update):
                results[split].append(result)
        manifests = {split: _manifest(path, results[split], split, params) for split in SPLITS}
        hashes = {split: np.concatenate([r.hashes for r in results[split]]) for split in SPLITS}
        _check_rejected(manifests, params.max_rejected, rejected)
        if source.held_out:
            logger.info(
                "%d of %d classes do not occur in training: %s%s",
                len(source.held_out), len(source.classes),
                ", ".join(map(printable, source.held_out[:NUM_EXAMPLES])),
                ", ..." if len(source.held_out) > NUM_EXAMPLES else "",
            )  # fmt: skip
        Dataset(
            name=params.dataset,
            source=params.source,
            classes=source.classes,
            held_out=source.held_out,
            samples={split: manifest.samples for split, manifest in manifests.items()},
            near_duplicates=_near_duplicates(folder, manifests, hashes),
            object_classes=source.object_classes,
            held_out_objects=source.held_out_objects,
        ).write(path)


def _manifest(
    folder: Path, results: list[ShardResult], split: str, params: PrepareParams
) -> Manifest:
    manifest = Manifest(
        kind="images",
        split=split,
        shards=[result.shard for result in results if result.shard is not None],
        identity={"dataset": params.dataset, "source": params.source},
        rejected=[
            {"name": r.name, "reason": r.reason} for result in results for r in result.rejected
        ],
    )
    manifest.write(folder / split)
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
        where = "" if failed else "; the manifests list all of them"
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
