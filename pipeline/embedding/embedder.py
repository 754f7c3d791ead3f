"""Image samples to teacher samples: each image is decoded once and all its views are embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdeov.data.colors import adjust_colors
from kdeov.data.region_views import RegionPlan
from kdeov.data.rendering import StoredImage, crop
from kdeov.data.views import View, ViewPlan
from kdeov.errors import DataError
from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.unit_embeddings import unit_image_embeddings, unit_text_embeddings
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import teacher_members

CPU_BATCH = 64  # larger batches are no faster on a CPU
MEMORY_SHARE = 0.5  # of a GPU's memory, for the activations of one batch


class _Crops(NamedTuple):
    """The views of an image, regions included; pixels are uint8 [views, 3, size, size], before
    colors change.
    """

    sample: dict[str, Any]
    views: list[View]
    pixels: Tensor
    captions: list[str]


class ShardEmbedder:
    """Embeds image shards with both towers of a teacher.

    On a GPU the next batch is decoded during the forward pass. On a CPU a decoding thread would
    take a core from the teacher's threads, which wait for each other: there, all cores decode
    between two forward passes.

    Args:
        teacher: Frozen.
        plan: How views are drawn.
        precision: `float32`, or the dtype of `torch.autocast` during the forward pass.
        batch_size: Views a forward pass.
        decoders: Threads that decode images.
        regions: How regions are drawn; none by default.
    """

    def __init__(
        self,
        teacher: TowerTeacher,
        plan: ViewPlan,
        precision: str = "float32",
        batch_size: int = CPU_BATCH,
        decoders: int = 1,
        regions: RegionPlan | None = None,
    ) -> None:
        self.teacher, self.plan, self.precision = teacher, plan, precision
        self.regions = regions or RegionPlan()
        self.crops = plan.count + self.regions.count
        self.num_images = max(1, batch_size // self.crops)
        self.decoders = decoders
        self.device = next(teacher.parameters()).device

    def samples(
        self, images: ShardFolder, shard: Shard, advance: Callable[[int], object]
    ) -> Iterator[dict[str, Any]]:
        """Teacher samples of an image shard, in its order.

        Args:
            images: Folder of the image shards of the split.
            shard: The image shard; its bytes are compared with its manifest.
            advance: Called with the number of images of each finished batch.

        Yields:
            The members of a sample (see `pipeline.artifacts.teacher_shards`).

        Raises:
            DataError: The shard is damaged, or an embedding is not finite.
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
    ) -> list[Future[_Crops]]:
        return [pool.submit(self._crop, sample) for sample in islice(raw, self.num_images)]

    def _crop(self, sample: dict[str, Any]) -> _Crops:
        image = StoredImage(sample["jpg"])
        transform = self.teacher.transform
        key, description = sample["__key__"], sample_json(sample)
        views = self.plan.draw_all(key, image.size)
        views += self.regions.draw_all(key, image.size, description.get("objects", []))
        pixels = [crop(image, view, transform.size, transform.interpolation) for view in views]
        return _Crops(sample, views, torch.stack(pixels), description["captions"])

    def _encode(self, batch: list[_Crops], where: str) -> Iterator[dict[str, Any]]:
        views = [view for crops in batch for view in crops.views]
        pixels = torch.cat([crops.pixels for crops in batch]).to(self.device)
        pixels = adjust_colors(pixels, views)
        view_embeddings = unit_image_embeddings(self.teacher, pixels, self.precision)
        captions = [caption for crops in batch for caption in crops.captions]
        text_embeddings = unit_text_embeddings(self.teacher, captions, self.precision)
        view_rows = view_embeddings.split(self.crops)
        text_rows = text_embeddings.split([len(crops.captions) for crops in batch])
        for crops, of_views, of_texts in zip(batch, view_rows, text_rows, strict=True):
            block = torch.cat([of_views, of_texts]).numpy()
            if not np.isfinite(block).all():
                raise DataError(
                    f"{where}: the teacher's embeddings of {crops.sample['__key__']} are not "
                    "finite; check the weights of the teacher"
                )
            yield teacher_members(crops.sample, block, crops.views)


def fitting_batch(teacher: TowerTeacher, precision: str) -> int:
    """Batch size in views: `CPU_BATCH`, or on a GPU a power of two from 8 to 1024 whose activations
    fill at most `MEMORY_SHARE` of the memory. Equal devices give equal sizes.
    """
    device = next(teacher.parameters()).device
    if device.type != "cuda":
        return CPU_BATCH
    num_probes, size = 8, teacher.transform.size
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    probes = torch.zeros(num_probes, 3, size, size, dtype=torch.uint8)
    unit_image_embeddings(teacher, probes, precision)
    bytes_per_view = (torch.cuda.max_memory_allocated(device) - before) / num_probes
    budget = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return 2 ** int(np.log2(min(max(budget / bytes_per_view, 8), 1024)))
