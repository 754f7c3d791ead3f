"""Proves a teacher cache: bytes against the manifest, random entries against the teacher."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from kdeov.errors import KdeovError
from kdeov.teacher import ClipTeacher
from kdeov.views import ViewPlan, render
from pipeline.cache import CachedSample, PairedShards
from pipeline.shards import verify_shards

logger = logging.getLogger(__name__)

LOWEST_COSINE = 0.9995  # half precision costs 1e-6, another batch size 1e-5; a wrong flip costs 0.1
BATCH = 16


@dataclass(frozen=True)
class Entry:
    """One cached view of a picture, to be made again."""

    shard: str
    sample: CachedSample
    view: int


def verify_cache(
    shards: PairedShards, teacher: ClipTeacher, plan: ViewPlan, entries: int, seed: int = 0
) -> float:
    """Checks one split.

    Args:
        shards: Pictures with their teacher vectors.
        teacher: The live teacher.
        plan: How views are drawn; stored parameters must be those.
        entries: How many (picture, view) pairs to embed again.
        seed: Picks them.

    Returns:
        The lowest cosine between a cached and a live vector.

    Raises:
        KdeovError: Bytes differ from the manifest, or an entry from the teacher; names shard, key
            and view.
    """
    verify_shards(shards.images, shards.manifest, "prepare")
    verify_shards(shards.embeddings, shards.cache, "embed")
    chosen = _choose(shards, plan.count, entries, seed)
    lowest = 1.0
    for first in range(0, len(chosen), BATCH):
        lowest = min(lowest, _verify_entries(chosen[first : first + BATCH], teacher, plan))
    logger.info(
        "%s: %d shards and %d entries agree, lowest cosine %.6f",
        shards.embeddings.name,
        len(shards.cache.shards),
        len(chosen),
        lowest,
    )
    return lowest


def _choose(shards: PairedShards, views: int, entries: int, seed: int) -> list[Entry]:
    """Random pictures with all views in turn, so that crops and flips are among them."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(len(shards), min(entries, len(shards)), replace=False)
    view_of = {int(number): place % views for place, number in enumerate(numbers)}
    chosen = []
    for index, shard in enumerate(shards.cache.shards):
        low, high = shards.offsets[index : index + 2]
        if any(low <= number < high for number in view_of):
            chosen += [
                Entry(shard.name, sample, view_of[number])
                for number, sample in shards.read(index, view_of.__contains__)
            ]
    return chosen


def _verify_entries(entries: list[Entry], teacher: ClipTeacher, plan: ViewPlan) -> float:
    transform = teacher.transform
    pixels = []
    for entry in entries:
        picture = Image.open(io.BytesIO(entry.sample.jpeg)).convert("RGB")
        view = entry.sample.views[entry.view]
        if view != plan.draw(entry.sample.key, entry.view, picture.size):
            raise _refusal(entry, f"shows {view}, which is not the view that params draw")
        pixels.append(render(picture, view, transform.size, transform.resampling))
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    device = next(teacher.parameters()).device
    live = F.normalize(teacher.encode_image(transform.normalise(batch.to(device))), dim=-1).cpu()
    cached = torch.from_numpy(np.stack([e.sample.view_vectors[e.view] for e in entries])).float()
    for entry, vector in zip(entries, cached, strict=True):
        if not abs(vector.norm().item() - 1) < 1e-2:
            raise _refusal(entry, f"has a vector of length {vector.norm().item():.3g}, not 1")
    cosines = F.cosine_similarity(live, cached, dim=-1).tolist()
    for entry, cosine in zip(entries, cosines, strict=True):
        if not cosine >= LOWEST_COSINE:
            raise _refusal(entry, f"has cosine {cosine:.4f} with the live teacher")
    return min(*cosines, _verify_captions(entries, teacher))


def _verify_captions(entries: list[Entry], teacher: ClipTeacher) -> float:
    """The first caption of each entry."""
    live = teacher.encode_text([entry.sample.captions[0] for entry in entries]).cpu()
    cached = torch.from_numpy(np.stack([e.sample.text_vectors[0] for e in entries])).float()
    cosines = F.cosine_similarity(live, cached, dim=-1).tolist()
    for entry, cosine in zip(entries, cosines, strict=True):
        if not cosine >= LOWEST_COSINE:
            raise _refusal(entry, f"has a caption with cosine {cosine:.4f} with the live teacher")
    return min(cosines)


def _refusal(entry: Entry, what: str) -> KdeovError:
    return KdeovError(
        f"teacher shard {entry.shard}, key {entry.sample.key}, view {entry.view} {what}; "
        "run `dvc repro -f embed`"
    )
