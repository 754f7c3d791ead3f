"""Stage `embed`: the teacher's unit vectors of several views of each picture and of each caption,
in shards.

Every finished shard has a note beside it that says what it was made from. So a killed run goes on
where it was, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdeov.errors import KdeovError
from kdeov.teacher import ClipTeacher
from kdeov.views import View, ViewPlan, render
from pipeline.cache import teacher_members
from pipeline.console import Meter, progress
from pipeline.dataset import SPLITS
from pipeline.device import pick_device
from pipeline.files import read_json, remove_partial, sha256_file, write_json
from pipeline.identity import cache_identity, differences, view_plan
from pipeline.params import EmbedParams
from pipeline.shards import Manifest, Shard, read_shard, sample_json, verify_shards, write_shard
from pipeline.teacher import load_teacher

logger = logging.getLogger(__name__)


def embed(params: EmbedParams, images: Path, teacher: Path, out: Path) -> None:
    """Writes teacher shards and a manifest for each split.

    Args:
        params: Views and batch size.
        images: What `prepare` wrote.
        teacher: What the `teacher` stage wrote.
        out: Where shards go; finished shards that fit are kept.

    Raises:
        KdeovError: Images or teacher are missing or damaged, or the disk is full.
    """
    model = load_teacher(teacher, pick_device())
    for split in SPLITS:
        plan = view_plan(params, split)
        identity = cache_identity(model.identity().to_dict(), plan)
        manifest = Manifest.read(images / split, "prepare")
        verify_shards(images / split, manifest, "prepare")
        embedder = ShardEmbedder(model, plan, params.batch_size)
        _embed_split(embedder, manifest, identity, images / split, out / split)


def _embed_split(
    embedder: ShardEmbedder, manifest: Manifest, identity: dict[str, Any], images: Path, out: Path
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    remove_partial(out)
    (out / "manifest.json").unlink(missing_ok=True)
    _delete_strangers(out, manifest)
    finished = {shard.name: _finished(out, shard, identity) for shard in manifest.shards}
    missing = [shard for shard in manifest.shards if finished[shard.name] is None]
    if kept := len(manifest.shards) - len(missing):
        logger.info(
            "embed %s: keeping %d of %d finished shards", manifest.split, kept, len(manifest.shards)
        )
    with progress(f"embed {manifest.split}", sum(shard.samples for shard in missing)) as meter:
        for shard in missing:
            made = write_shard(
                out / shard.name, embedder.samples(images / shard.name, shard, meter)
            )
            note = {"identity": identity, "images_sha256": shard.sha256, "shard": asdict(made)}
            write_json(_note(out, shard), note)
            finished[shard.name] = made
    shards = [made for made in finished.values() if made is not None]
    Manifest("teacher", manifest.split, shards, identity).write(out)


@dataclass(frozen=True)
class _Batch:
    keys: list[str]
    views: list[list[View]]
    captions: list[list[str]]
    pixels: Tensor  # uint8 [pictures * views, 3, size, size]


class ShardEmbedder:
    """Turns image samples into teacher samples.

    Args:
        teacher: Frozen.
        plan: How views are drawn.
        batch_size: Views a forward pass.
    """

    def __init__(self, teacher: ClipTeacher, plan: ViewPlan, batch_size: int) -> None:
        self.teacher, self.plan = teacher, plan
        self.pictures = max(1, batch_size // plan.count)
        self.device = next(teacher.parameters()).device

    def samples(self, path: Path, shard: Shard, meter: Meter) -> Iterator[dict[str, Any]]:
        """Teacher samples of an image shard, in its order. Decoding overlaps with the teacher."""
        raw = (sample for _, sample in read_shard(path, shard))
        with ThreadPoolExecutor(1) as decoder:
            upcoming = decoder.submit(self._decode, list(islice(raw, self.pictures)))
            while (batch := upcoming.result()) is not None:
                upcoming = decoder.submit(self._decode, list(islice(raw, self.pictures)))
                yield from self._encode(batch, path)
                meter.advance(len(batch.keys))

    def _decode(self, raw: list[dict[str, Any]]) -> _Batch | None:
        """One decode of each picture for all of its views."""
        if not raw:
            return None
        transform = self.teacher.transform
        views, pixels = [], []
        for sample in raw:
            image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
            views.append(self.plan.draw_all(sample["__key__"], image.size))
            pixels += [
                render(image, view, transform.size, transform.resampling) for view in views[-1]
            ]
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        captions = [sample_json(sample)["captions"] for sample in raw]
        return _Batch([sample["__key__"] for sample in raw], views, captions, stacked)

    def _encode(self, batch: _Batch, path: Path) -> Iterator[dict[str, Any]]:
        pixels = self.teacher.transform.normalise(batch.pixels.to(self.device))
        images = F.normalize(self.teacher.encode_image(pixels), dim=-1)
        texts = F.normalize(
            self.teacher.encode_text([c for group in batch.captions for c in group]), dim=-1
        )
        image_rows = images.split(self.plan.count)
        text_rows = texts.split([len(group) for group in batch.captions])
        for key, views, ours, theirs in zip(
            batch.keys, batch.views, image_rows, text_rows, strict=True
        ):
            block = torch.cat([ours, theirs]).cpu().numpy()
            if not np.isfinite(block).all():
                raise KdeovError(
                    f"{path}: the teacher's vectors of {key} are not finite; check its weights"
                )
            yield teacher_members(key, block, views)


def _note(out: Path, shard: Shard) -> Path:
    return out / f"{Path(shard.name).stem}.json"


def _finished(out: Path, shard: Shard, identity: dict[str, Any]) -> Shard | None:
    """What is known of a finished teacher shard, or None where it is missing or made from something
    else.
    """
    note, path = _note(out, shard), out / shard.name
    if not note.is_file() or not path.is_file():
        return None
    try:
        found = read_json(note, "embed")
        made = Shard(**found["shard"])
        why = differences(identity, found["identity"])
        if not why and found["images_sha256"] != shard.sha256:
            why = ["its pictures changed"]
        if not why and sha256_file(path) != made.sha256:
            why = ["its bytes changed"]
    except (KdeovError, KeyError, TypeError):
        why = [f"{note.name} is damaged"]
    if why:
        logger.info("embed: %s is made again: %s", path, "; ".join(why))
        note.unlink()
        return None
    return made


def _delete_strangers(out: Path, manifest: Manifest) -> None:
    """DVC keeps this folder between runs, so what is no longer listed must go."""
    listed = {shard.name for shard in manifest.shards} | {
        _note(out, s).name for s in manifest.shards
    }
    for path in out.iterdir():
        if path.name not in listed:
            logger.info("embed: %s is no longer listed and is deleted", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
