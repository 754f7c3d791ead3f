"""Verifies a teacher cache: bytes against the manifest, samples against their checksums, and spot
checks against the live teacher.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdeov.data.region_views import RegionPlan
from kdeov.data.rendering import StoredImage, render
from kdeov.data.views import View, ViewPlan
from kdeov.errors import DataError
from kdeov.teachers.unit_embeddings import unit_image_embeddings, unit_text_embeddings
from pipeline.artifacts.teacher_shards import UNIT, PairedSample, first_not_unit
from pipeline.console import progress
from pipeline.data.paired_shards import PairedShards
from pipeline.teachers.load import Teacher
from pipeline.teachers.precomputed import PrecomputedTeacher

logger = logging.getLogger(__name__)

MIN_COSINE = 0.9995  # half precision costs 1e-6, another batch size 1e-5; a wrong flip costs 0.1
MIN_COSINE_NVJPEG = 0.98  # of images that the GPU decoded, with the same images decoded here
BATCH = 16


@dataclass(frozen=True)
class SpotCheck:
    """An image of which one cached view or region and one cached caption are embedded again.

    Attributes:
        where: Address of the teacher shard, for messages.
        sample: The image with its cached embeddings.
        view: Number of the view; regions follow the views.
        caption: Number of the caption.
    """

    where: str
    sample: PairedSample
    view: int
    caption: int

    @property
    def crops(self) -> list[View]:
        """The views and regions that the teacher embedded."""
        return self.sample.views + self.sample.regions

    @property
    def embedding(self) -> np.ndarray:
        """The cached embedding of the view or region."""
        views = len(self.sample.views)
        if self.view < views:
            return self.sample.view_embeddings[self.view]
        return self.sample.region_embeddings[self.view - views]

    @property
    def name(self) -> str:
        """Names the view or region in messages."""
        return _crop_name(self.view, len(self.sample.views))


def verify_cache(
    shards: PairedShards, teacher: Teacher, checks: int, whole: bool = False, seed: int = 0
) -> float:
    """Verifies one split.

    Args:
        shards: Images with their teacher embeddings.
        teacher: The live teacher.
        checks: Number of images of which a view and a caption are embedded again.
        whole: Whether to read every shard and sample; otherwise only shards with spot checks.
        seed: Seed of the choice of images, views and captions.

    Returns:
        The lowest cosine between a cached and a live embedding.

    Raises:
        DataError: Bytes differ from the manifest, or a cached embedding from the live one; names
            shard, key and view.
    """
    places = _choose(shards, checks, seed)
    touched = range(len(shards.cache.shards)) if whole else sorted({place for place, _ in places})
    _verify_bytes(shards, touched)
    if whole:
        _verify_samples(shards)
    chosen = _read(shards, places, seed)
    lowest = 1.0
    for first in range(0, len(chosen), BATCH):
        lowest = min(lowest, _verify_spot_checks(chosen[first : first + BATCH], shards, teacher))
    logger.info(
        "%s: %d of %d shards and %d spot checks agree, lowest cosine %.6f",
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
        for _ in pool.map(lambda one: one[0].verify(one[1]), pairs):
            bar.update()


def _verify_samples(shards: PairedShards) -> None:
    with progress(f"verify {shards.cache.split}", len(shards)) as bar:
        for place, shard in enumerate(shards.cache.shards):
            for _, sample in shards.read(place):
                embeddings = np.concatenate(
                    [sample.view_embeddings, sample.region_embeddings, sample.text_embeddings]
                )
                if wrong := first_not_unit(embeddings):
                    (row, length), views = wrong, len(sample.views)
                    crops = views + len(sample.regions)
                    caption = f"caption {row - crops}"
                    name = _crop_name(row, views) if row < crops else caption
                    raise DataError(
                        f"{shards.embeddings.where(shard)}: key {sample.key}, {name} has an "
                        f"embedding of length {length:.3g}, not 1; run `dvc repro -f embed`"
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
        for _, sample in shards.read(place, wanted.__contains__, max(wanted) + 1, min(wanted)):
            view = rng.integers(max(1, len(sample.views) + len(sample.regions)))
            caption = rng.integers(max(1, len(sample.captions)))
            chosen.append(SpotCheck(where, sample, int(view), int(caption)))
    return chosen


def _verify_spot_checks(checks: list[SpotCheck], shards: PairedShards, teacher: Teacher) -> float:
    images = [StoredImage(c.sample.jpeg) for c in checks]
    _verify_views(checks, images, shards.cache.identity)
    precision = shards.cache.identity["precision"]
    decoded_here = shards.cache.identity.get("decoder", "cpu") == "cpu"
    lowest = 1.0
    for live, cached, names, floor in (
        (
            _live_views(checks, images, teacher, precision),
            [c.embedding for c in checks if c.crops],
            [c.name for c in checks if c.crops],
            MIN_COSINE if decoded_here else MIN_COSINE_NVJPEG,
        ),
        (
            _live_captions(checks, teacher, precision),
            [c.sample.text_embeddings[c.caption] for c in checks if c.sample.captions],
            [f"caption {c.caption}" for c in checks if c.sample.captions],
            MIN_COSINE,
        ),
    ):
        if not cached:  # the teacher has no embeddings of this kind in this split
            continue
        embeddings = torch.from_numpy(np.stack(cached).astype(np.float32))
        lengths, cosines = embeddings.norm(dim=1), F.cosine_similarity(live, embeddings, dim=-1)
        for check, name, length, cosine in zip(
            checks, names, lengths.tolist(), cosines.tolist(), strict=True
        ):
            if not abs(length - 1) <= UNIT:
                raise _mismatch(check, name, f"has an embedding of length {length:.3g}, not 1")
            if not cosine >= floor:
                raise _mismatch(check, name, f"has cosine {cosine:.4f} with the live teacher")
            lowest = min(lowest, cosine)
    return lowest


def _verify_views(
    checks: list[SpotCheck], images: list[StoredImage], identity: dict[str, Any]
) -> None:
    plan = ViewPlan(**identity["views"])
    regions = RegionPlan.from_dict(identity["regions"]) if "regions" in identity else None
    for check, image in zip(checks, images, strict=True):
        if not check.crops:
            continue
        sample, number = check.sample, check.view - plan.count
        if number < 0 or regions is None:
            drawn = plan.draw(sample.key, check.view, image.size)
        else:
            drawn = regions.draw(sample.key, number, image.size, sample.objects)
        if (view := check.crops[check.view]) != drawn:
            raise _mismatch(check, check.name, f"is {view}, which params do not draw")


def _crop_name(number: int, views: int) -> str:
    return f"view {number}" if number < views else f"region {number - views}"


def _live_views(
    checks: list[SpotCheck], images: list[StoredImage], teacher: Teacher, precision: str
) -> torch.Tensor:
    """The live teacher's unit embeddings of the chosen views, float32 [N, D]."""
    pairs = [(c, image) for c, image in zip(checks, images, strict=True) if c.crops]
    if not pairs:
        return torch.empty(0, teacher.embed_dim)
    if isinstance(teacher, PrecomputedTeacher):
        described = [{"key": c.sample.key, "source": c.sample.source} for c, _ in pairs]
        return torch.from_numpy(teacher.image_embeddings(described).astype(np.float32))
    transform = teacher.transform
    pixels = [
        render(image, c.crops[c.view], transform.size, transform.interpolation)
        for c, image in pairs
    ]
    return unit_image_embeddings(teacher, torch.stack(pixels), precision)


def _live_captions(checks: list[SpotCheck], teacher: Teacher, precision: str) -> torch.Tensor:
    """The live teacher's unit embeddings of the chosen captions, float32 [N, D]."""
    captions = [c.sample.captions[c.caption] for c in checks if c.sample.captions]
    if isinstance(teacher, PrecomputedTeacher):
        return torch.from_numpy(teacher.caption_embeddings(captions).astype(np.float32))
    return unit_text_embeddings(teacher, captions, precision)


def _mismatch(check: SpotCheck, name: str, problem: str) -> DataError:
    return DataError(
        f"{check.where}: key {check.sample.key}, {name} {problem}; run `dvc repro -f embed`"
    )
