"""Image samples into teacher samples: one decode an image, all its views through the teacher."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from kdeov.data.views import View, ViewPlan, render
from kdeov.errors import KdeovError
from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.unit_embeddings import unit_image_embeddings, unit_text_embeddings
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import teacher_members

CPU_BATCH = 64  # a CPU gains nothing from more
MEMORY_SHARE = 0.5  # of a GPU's memory, for the activations of one batch


class _Shown(NamedTuple):
    """An image under its views: pixels are uint8 [views, size, size, 3]."""

    sample: dict[str, Any]
    views: list[View]
    pixels: np.ndarray
    captions: list[str]


class ShardEmbedder:
    """Embeds shards with a teacher.

    On a GPU, the next batch is decoded meanwhile. On a CPU a decoding thread would take a core from
    the teacher's, which wait for each other; there, all cores decode between two batches.

    Args:
        teacher: Frozen.
        plan: How views are drawn.
        precision: What the teacher computes in (see `kdeov.teachers.precision`).
        batch_size: Views a forward pass.
        decoders: Threads that decode images.
    """

    def __init__(
        self,
        teacher: TowerTeacher,
        plan: ViewPlan,
        precision: str = "float32",
        batch_size: int = CPU_BATCH,
        decoders: int = 1,
    ) -> None:
        self.teacher, self.plan, self.precision = teacher, plan, precision
        self.num_images = max(1, batch_size // plan.count)
        self.decoders = decoders
        self.device = next(teacher.parameters()).device

    def samples(
        self, images: ShardFolder, shard: Shard, advance: Callable[[int], object]
    ) -> Iterator[dict[str, Any]]:
        """Teacher samples of an image shard, in its order.

        Args:
            images: Folder of the image shards of the split.
            shard: One of them, whose bytes are compared with its manifest.
            advance: Hears how many more images are done.
        """
        raw = images.read_verified(shard)
        with ThreadPoolExecutor(self.decoders) as pool:
            try:
                upcoming = self._decode(pool, raw)
                while upcoming:
                    batch = [future.result() for future in upcoming]
                    upcoming = self._decode(pool, raw) if self.device.type == "cuda" else []
                    yield from self._encode(batch, images.where(shard))
                    advance(len(batch))
                    upcoming = upcoming or self._decode(pool, raw)
            finally:
                pool.shutdown(cancel_futures=True)

    def _decode(
        self, pool: ThreadPoolExecutor, raw: Iterator[dict[str, Any]]
    ) -> list[Future[_Shown]]:
        return [pool.submit(self._show, sample) for sample in islice(raw, self.num_images)]

    def _show(self, sample: dict[str, Any]) -> _Shown:
        image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        transform = self.teacher.transform
        views = self.plan.draw_all(sample["__key__"], image.size)
        pixels = [render(image, view, transform.size, transform.resampling) for view in views]
        return _Shown(sample, views, np.stack(pixels), sample_json(sample)["captions"])

    def _encode(self, batch: list[_Shown], where: str) -> Iterator[dict[str, Any]]:
        pixels = np.concatenate([shown.pixels for shown in batch])
        images = unit_image_embeddings(self.teacher, pixels, self.precision)
        captions = [caption for shown in batch for caption in shown.captions]
        texts = unit_text_embeddings(self.teacher, captions, self.precision)
        image_rows = images.split(self.plan.count)
        text_rows = texts.split([len(shown.captions) for shown in batch])
        for shown, ours, theirs in zip(batch, image_rows, text_rows, strict=True):
            block = torch.cat([ours, theirs]).numpy()
            if not np.isfinite(block).all():
                raise KdeovError(
                    f"{where}: the teacher's vectors of {shown.sample['__key__']} are not finite; "
                    "check its weights"
                )
            yield teacher_members(shown.sample, block, shown.views)


def fitting_batch(teacher: TowerTeacher, precision: str) -> int:
    """Views that the teacher's device embeds well at once: the same for equal devices."""
    device = next(teacher.parameters()).device
    if device.type != "cuda":
        return CPU_BATCH
    probe, size = 8, teacher.transform.size
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    unit_image_embeddings(teacher, np.zeros((probe, size, size, 3), np.uint8), precision)
    each = (torch.cuda.max_memory_allocated(device) - before) / probe
    room = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return 2 ** int(np.log2(min(max(room / each, 8), 1024)))
