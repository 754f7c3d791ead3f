"""Stage `embed`: the teacher's unit vectors of several views of each picture and of each caption,
in shards.

Every finished shard has a note beside it that says what it was made from. So a killed run goes on
where it was, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.console import progress
from pipeline.dataset import SPLITS
from pipeline.embed_workers import Job, make_shards, note_path
from pipeline.files import read_json, remove_partial, sha256_file
from pipeline.identity import cache_identity, differences
from pipeline.params import ClusterParams, EmbedParams
from pipeline.precomputed import LIBRARY
from pipeline.shards import Manifest, Shard
from pipeline.teacher import read_teacher_identity

logger = logging.getLogger(__name__)

NAMED = 5  # shards that a line of the log names


def embed(
    params: EmbedParams, cluster: ClusterParams, images: Path, teacher: Path, out: Path
) -> None:
    """Writes teacher shards and a manifest for each split.

    Args:
        params: Views and precision.
        cluster: Where to run.
        images: What `prepare` wrote.
        teacher: What the `teacher` stage wrote.
        out: Where shards go; finished shards that fit are kept.

    Raises:
        KdeovError: Images or teacher are missing or damaged, or the disk is full.
    """
    teacher_identity = read_teacher_identity(teacher)
    if teacher_identity["library"] == LIBRARY and params.views != 1:
        raise KdeovError(
            f"embed.views is {params.views}, and the teacher's vectors are of one view a picture; "
            "set it to 1"
        )
    manifests = {split: Manifest.read(images / split, "prepare") for split in SPLITS}
    identities = {split: cache_identity(teacher_identity, params, split) for split in SPLITS}
    finished: dict[str, dict[str, Shard]] = {}
    jobs: list[Job] = []
    for split, manifest in manifests.items():
        folder = out / split
        finished[split] = _keep(folder, manifest, identities[split])
        jobs += [
            Job(split, images / split, shard, folder)
            for shard in manifest.shards
            if shard.name not in finished[split]
        ]
    if jobs:
        with progress("embed", sum(job.shard.samples for job in jobs)) as meter:
            for job, made in make_shards(jobs, params, cluster, teacher, meter.reach):
                finished[job.split][made.name] = made
    for split, manifest in manifests.items():
        shards = [finished[split][shard.name] for shard in manifest.shards]
        Manifest("teacher", split, shards, identities[split]).write(out / split)


def _keep(out: Path, manifest: Manifest, identity: dict[str, Any]) -> dict[str, Shard]:
    """The finished teacher shards that still fit, by name. What is no longer listed is deleted: DVC
    keeps this folder between runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_partial(out)
    (out / "manifest.json").unlink(missing_ok=True)
    listed = {n for s in manifest.shards for n in (s.name, note_path(out, s).name)}
    for path in out.iterdir():
        if path.name not in listed:
            logger.info("embed: %s is no longer listed and is deleted", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(f"compare {manifest.split}", len(manifest.shards), "shards") as meter,
    ):
        found = []
        for shard in pool.map(lambda shard: _finished(out, shard, identity), manifest.shards):
            found.append(shard)
            meter.advance()
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


def _finished(out: Path, shard: Shard, identity: dict[str, Any]) -> Shard | str | None:
    """What is known of a finished teacher shard, or why it does not fit; None where it is not."""
    note, path = note_path(out, shard), out / shard.name
    if not note.is_file():
        return None
    try:
        found = read_json(note, "embed")
        made = Shard(**found["shard"])
        why = differences(identity, found["identity"])
        if not why and found["images_sha256"] != shard.sha256:
            why = ["its pictures changed"]
        if not why and not path.is_file():
            why = ["it is missing"]
        if not why and (path.stat().st_size != made.bytes or sha256_file(path) != made.sha256):
            why = ["its bytes changed"]
    except (KdeovError, KeyError, TypeError):
        why = ["its note is damaged"]
    if why:
        note.unlink()
        return "; ".join(why)
    return made
