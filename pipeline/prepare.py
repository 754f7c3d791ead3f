"""Stage `prepare`: a source into image shards, with manifests that also name what was rejected."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.console import progress
from pipeline.dataset import SPLITS, Dataset
from pipeline.files import writing_folder
from pipeline.params import PrepareParams
from pipeline.shards import Manifest, shard_name, write_shard
from pipeline.sources import Rejected, Sample, Source, open_source

logger = logging.getLogger(__name__)

CHUNK = 32  # inputs that a worker process takes at once


def prepare(params: PrepareParams, out: Path) -> None:
    """Writes `out/<split>/*.tar`, a manifest for each split, and `dataset.json`.

    Raises:
        KdeovError: The source cannot be used, a split is empty, or too many inputs were rejected.
    """
    source = open_source(params)
    inputs = {split: source.inputs(split) for split in SPLITS}
    if not any(inputs.values()):
        raise KdeovError(f"{params.path}: the data set is empty; check prepare.path")
    for split, items in inputs.items():
        if not items:
            raise KdeovError(
                f"{params.path}: the {split} split is empty; give it a larger share in prepare"
            )
    with writing_folder(out) as folder:
        manifests = {split: _write_split(source, split, params, folder / split) for split in SPLITS}
        _check_rejected(manifests, params.max_rejected)
        samples = {split: manifest.samples for split, manifest in manifests.items()}
        Dataset(params.dataset, params.source, source.classes, source.held_out, samples).write(
            folder
        )


def _write_split(source: Source, split: str, params: PrepareParams, folder: Path) -> Manifest:
    rejected: list[Rejected] = []
    items = source.inputs(split)
    with progress(f"prepare {split}", len(items)) as meter:
        made = _make(source, items)
        usable = _usable(made, rejected, meter.advance)
        shards = [
            write_shard(folder / shard_name(index), map(_members, chunk))
            for index, chunk in enumerate(_chunks(usable, params.samples_per_shard))
        ]
    manifest = Manifest(
        kind="images",
        split=split,
        shards=shards,
        identity={"dataset": params.dataset, "source": params.source},
        rejected=[{"name": r.name, "reason": r.reason} for r in rejected],
    )
    manifest.write(folder)
    logger.info(
        "%s: %d pictures in %d shards, %d rejected",
        split,
        manifest.samples,
        len(shards),
        len(rejected),
    )
    return manifest


def _make(source: Source, items: Any) -> Iterator[Sample | Rejected]:
    """Samples in the order of the inputs, made by one process a core."""
    workers = min(os.cpu_count() or 1, -(-len(items) // CHUNK))
    if workers == 1:
        yield from map(source.make, items)
        return
    # spawned, not forked: a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(source.make, items, chunksize=CHUNK)


def _usable(
    made: Iterable[Sample | Rejected], rejected: list[Rejected], advance: Any
) -> Iterator[Sample]:
    for result in made:
        advance()
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            yield result


def _chunks(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while chunk := list(islice(samples, size)):
        yield chunk


def _members(sample: Sample) -> dict[str, Any]:
    description = {
        "captions": sample.captions,
        "label": sample.label,
        "source": sample.source,
        **sample.extra,
    }
    return {
        "__key__": sample.key,
        "jpg": sample.jpeg,
        "json": json.dumps(description, sort_keys=True, ensure_ascii=False).encode(),
    }


def _check_rejected(manifests: dict[str, Manifest], limit: float) -> None:
    rejected = [r for manifest in manifests.values() for r in manifest.rejected]
    total = sum(manifest.samples for manifest in manifests.values()) + len(rejected)
    if rejected:
        logger.warning(
            "rejected %d of %d inputs; the manifests list all of them", len(rejected), total
        )
    if len(rejected) > limit * total:
        named = "; ".join(f"{r['name']}: {r['reason']}" for r in rejected[:3])
        raise KdeovError(
            f"{len(rejected)} of {total} inputs cannot be used, more than "
            f"prepare.max_rejected = {limit:g} "
            f"allows ({named}{'; ...' if len(rejected) > 3 else ''}); mend them or raise the limit"
        )
    for split, manifest in manifests.items():
        if not manifest.samples:
            raise KdeovError(f"no picture of the {split} split can be used; mend the data set")
