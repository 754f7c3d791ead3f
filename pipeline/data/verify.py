"""Proves a teacher cache: bytes against the manifest, every sample against its checksums, random
entries against the live teacher.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from kdeov.data.views import ViewPlan, render
from kdeov.errors import KdeovError
from kdeov.teachers.unit_embeddings import unit_image_embeddings, unit_text_embeddings
from pipeline.artifacts.teacher_shards import UNIT, PairedSample, first_not_unit
from pipeline.console import progress
from pipeline.data.paired_shards import PairedShards
from pipeline.teachers.load import Teacher
from pipeline.teachers.precomputed import PrecomputedTeacher

logger = logging.getLogger(__name__)

LOWEST_COSINE = 0.9995  # half precision costs 1e-6, another batch size 1e-5; a wrong flip costs 0.1
BATCH = 16


@dataclass(frozen=True)
class SpotCheck:
    """One cached view and one cached caption of an image, to be made again."""

    where: str
    sample: PairedSample
    view: int
    caption: int


def verify_cache(
    shards: PairedShards, teacher: Teacher, checks: int, whole: bool = False, seed: int = 0
) -> float:
    """Checks one split.

    Args:
        shards: Images with their teacher vectors.
        teacher: The live teacher.
        entries: How many (image, view) pairs to embed again.
        whole: Reads every byte and every sample; otherwise those of the shards that the entries are
            in.
        seed: Picks the entries.

    Returns:
        The lowest cosine between a cached and a live vector.

    Raises:
        KdeovError: Bytes differ from the manifest, or an entry from the teacher; names shard, key
            and view.
    """
    places = _choose(shards, checks, seed)
    touched = range(len(shards.cache.shards)) if whole else sorted({place for place, _ in places})
    _verify_bytes(shards, touched)
    if whole:
        _verify_samples(shards)
    chosen = _read(shards, places, seed)
    lowest = 1.0
    for first in range(0, len(chosen), BATCH):
        lowest = min(lowest, _verify_entries(chosen[first : first + BATCH], shards, teacher))
    logger.info(
        "%s: %d of %d shards and %d entries agree, lowest cosine %.6f",
        shards.cache.split, len(touched), len(shards.cache.shards), len(chosen), lowest,
    )  # fmt: skip
    return lowest


def _verify_bytes(shards: PairedShards, touched: Iterable[int]) -> None:
    pairs = [
        pair
        for place in touched
        for pair in (
            (shards.images, shards.manifest.shards[place]),
            (shards.embeddings, shards.cache.shards[place]),
        )
    ]
    label = f"verify bytes of {shards.cache.split}"
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(label, len(pairs), "shards") as bar,
    ):
        # the first fault ends it
        for _ in pool.map(lambda one: one[0].verify(one[1]), pairs):
            bar.update()


def _verify_samples(shards: PairedShards) -> None:
    with progress(f"verify {shards.cache.split}", len(shards)) as bar:
        for place, shard in enumerate(shards.cache.shards):
            for _, sample in shards.read(place):
                vectors = np.concatenate([sample.view_embeddings, sample.text_embeddings])
                if wrong := first_not_unit(vectors):
                    (row, length), views = wrong, len(sample.views)
                    what = f"view {row}" if row < views else f"caption {row - views}"
                    raise KdeovError(
                        f"{shards.embeddings.where(shard)}: key {sample.key}, {what} has a vector "
                        f"of length {length:.3g}, not 1; run `dvc repro -f embed`"
                    )
            bar.update(shard.samples)


def _choose(shards: PairedShards, checks: int, seed: int) -> list[tuple[int, int]]:
    """Random images, as (shard, number within it)."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(len(shards), min(checks, len(shards)), replace=False)
    owners = np.searchsorted(shards.offsets, numbers, "right") - 1
    return sorted(zip(owners.tolist(), (numbers - shards.offsets[owners]).tolist(), strict=True))


def _read(shards: PairedShards, places: list[tuple[int, int]], seed: int) -> list[SpotCheck]:
    """The chosen images, each with a random view and a random caption."""
    rng = np.random.default_rng([seed, 1])
    chosen = []
    for place in sorted({shard for shard, _ in places}):
        wanted = {number for shard, number in places if shard == place}
        where = shards.embeddings.where(shards.cache.shards[place])
        for _, sample in shards.read(place, wanted.__contains__, max(wanted) + 1):
            view = rng.integers(max(1, len(sample.views)))
            caption = rng.integers(max(1, len(sample.captions)))
            chosen.append(SpotCheck(where, sample, int(view), int(caption)))
    return chosen


def _verify_entries(checks: list[SpotCheck], shards: PairedShards, teacher: Teacher) -> float:
    images = [Image.open(io.BytesIO(e.sample.jpeg)).convert("RGB") for e in checks]
    _verify_views(checks, images, ViewPlan(**shards.cache.identity["views"]))
    precision = shards.cache.identity["precision"]
    lowest = 1.0
    for live, cached, names in (
        (
            _live_views(checks, images, teacher, precision),
            [e.sample.view_embeddings[e.view] for e in checks if e.sample.views],
            [f"view {e.view}" for e in checks if e.sample.views],
        ),
        (
            _live_captions(checks, teacher, precision),
            [e.sample.text_embeddings[e.caption] for e in checks if e.sample.captions],
            [f"caption {e.caption}" for e in checks if e.sample.captions],
        ),
    ):
        if not cached:  # this teacher has none here
            continue
        vectors = torch.from_numpy(np.stack(cached).astype(np.float32))
        lengths, cosines = vectors.norm(dim=1), F.cosine_similarity(live, vectors, dim=-1)
        for check, name, length, cosine in zip(
            checks, names, lengths.tolist(), cosines.tolist(), strict=True
        ):
            if not abs(length - 1) <= UNIT:
                raise _refusal(check, name, f"has a vector of length {length:.3g}, not 1")
            if not cosine >= LOWEST_COSINE:
                raise _refusal(check, name, f"has cosine {cosine:.4f} with the live teacher")
            lowest = min(lowest, cosine)
    return lowest


def _verify_views(checks: list[SpotCheck], images: list[Image.Image], plan: ViewPlan) -> None:
    for check, image in zip(checks, images, strict=True):
        if not check.sample.views:
            continue
        view = check.sample.views[check.view]
        if view != plan.draw(check.sample.key, check.view, image.size):
            raise _refusal(
                check, f"view {check.view}", f"shows {view}, which is not the view that params draw"
            )


def _live_views(
    checks: list[SpotCheck], images: list[Image.Image], teacher: Teacher, precision: str
) -> torch.Tensor:
    """The teacher's vectors of the entries' views, [N, D]."""
    shown = [(e, image) for e, image in zip(checks, images, strict=True) if e.sample.views]
    if not shown:
        return torch.empty(0, teacher.embed_dim)
    if isinstance(teacher, PrecomputedTeacher):
        described = [{"key": e.sample.key, "source": e.sample.source} for e, _ in shown]
        return torch.from_numpy(teacher.image_embeddings(described).astype(np.float32))
    transform = teacher.transform
    pixels = [
        render(image, e.sample.views[e.view], transform.size, transform.resampling)
        for e, image in shown
    ]
    return unit_image_embeddings(teacher, np.stack(pixels), precision)


def _live_captions(checks: list[SpotCheck], teacher: Teacher, precision: str) -> torch.Tensor:
    """The teacher's vectors of the entries' captions, [N, D]."""
    captions = [e.sample.captions[e.caption] for e in checks if e.sample.captions]
    if isinstance(teacher, PrecomputedTeacher):
        return torch.from_numpy(teacher.caption_embeddings(captions).astype(np.float32))
    return unit_text_embeddings(teacher, captions, precision)


def _refusal(check: SpotCheck, which: str, what: str) -> KdeovError:
    return KdeovError(
        f"{check.where}: key {check.sample.key}, {which} {what}; run `dvc repro -f embed`"
    )
