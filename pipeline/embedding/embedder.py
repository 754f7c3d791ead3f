"""Image samples to teacher samples: each image is decoded once and all its views are embedded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdeov.data.colors import adjust_colors_
from kdeov.data.region_views import RegionPlan
from kdeov.data.rendering import StoredImage, crop
from kdeov.data.views import View, ViewPlan
from kdeov.errors import DataError
from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.unit_embeddings import launch_images, launch_texts, unit_image_embeddings
from kdeov.weights.device import join_tensors, upload
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import teacher_members
from pipeline.embedding.nvjpeg import decoded_views
from pipeline.runtime.prefetch import Download, prefetched

CPU_BATCH = 64  # larger batches are no faster on a CPU
NO_PIXELS = torch.empty(0, dtype=torch.uint8)
MEMORY_SHARE = 0.5  # of a GPU's memory, for the activations of one batch


class _Crops(NamedTuple):
    """The views of an image, regions included; pixels are uint8 [views, 3, size, size], before
    colors change, and none where the GPU decodes.
    """

    sample: dict[str, Any]
    views: list[View]
    pixels: Tensor
    captions: list[str]


class _Launched(NamedTuple):
    """A batch whose embeddings of views [V, D] and captions [C, D] a GPU may still compute."""

    batch: list[_Crops]
    views: Download
    captions: Download


class ShardEmbedder:
    """Embeds image shards with both towers of a teacher.

    On a GPU, the batch after the next is decoded, the next one is copied, and the one before is
    written, all during the forward pass. On a CPU a decoding thread would take a core from the
    teacher's threads, which wait for each other: there, all cores decode between two forward
    passes.

    Args:
        teacher: Frozen.
        plan: How views are drawn.
        precision: `float32`, or the dtype of `torch.autocast` during the forward pass.
        batch_size: Views a forward pass.
        decoders: Threads that decode images.
        regions: How regions are drawn; none by default.
        decoder: `cpu`, or `nvjpeg` (see `pipeline.embedding.nvjpeg`).
    """

    def __init__(
        self,
        teacher: TowerTeacher,
        plan: ViewPlan,
        precision: str = "float32",
        batch_size: int = CPU_BATCH,
        decoders: int = 1,
        regions: RegionPlan | None = None,
        decoder: str = "cpu",
    ) -> None:
        self.teacher, self.plan, self.precision = teacher, plan, precision
        self.regions = regions or RegionPlan()
        self.crops = plan.count + self.regions.count
        self.num_images = max(1, batch_size // self.crops)
        self.decoders = decoders
        self.on_cpu = decoder == "cpu"
        self.device = next(teacher.parameters()).device
        self.ahead = int(self.device.type == "cuda")  # batches that are launched or decoded early

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
        # torch would share the work of each of these threads among all cores
        single = partial(torch.set_num_threads, 1) if self.ahead else None
        with ThreadPoolExecutor(self.decoders, initializer=single) as pool:
            try:
                batches = prefetched(self._decoded(pool, raw), self._on_device, self.device)
                with closing(self._launched(batches)) as launched:
                    for one in launched:
                        yield from self._members(one, images.where(shard))
                        advance(len(one.batch))
            finally:
                pool.shutdown(cancel_futures=True)

    def _decoded(
        self, pool: ThreadPoolExecutor, raw: Iterator[dict[str, Any]]
    ) -> Iterator[list[_Crops]]:
        """Batches; with `ahead`, the next one is in the pool while a batch is in use."""
        submitted: deque[list[Future[_Crops]]] = deque()
        while True:
            while len(submitted) <= self.ahead:
                part = islice(raw, self.num_images)
                submitted.append([pool.submit(self._crop, sample) for sample in part])
            if not submitted[0]:
                return
            yield [future.result() for future in submitted.popleft()]

    def _crop(self, sample: dict[str, Any]) -> _Crops:
        image = StoredImage(sample["jpg"])
        transform = self.teacher.transform
        key, description = sample["__key__"], sample_json(sample)
        views = self.plan.draw_all(key, image.size)
        views += self.regions.draw_all(key, image.size, description.get("objects", []))
        pixels = NO_PIXELS
        if self.on_cpu:
            size, filter_ = transform.size, transform.interpolation
            pixels = torch.stack([crop(image, view, size, filter_) for view in views])
        return _Crops(sample, views, pixels, description["captions"])

    def _on_device(self, batch: list[_Crops]) -> tuple[list[_Crops], Tensor]:
        """A batch with the pixels of its views, uint8 [V, 3, size, size] on the device."""
        if self.on_cpu:
            parts = [crops.pixels for crops in batch]
            joined = join_tensors(parts, pinned=self.device.type == "cuda")
            pixels = upload(joined, self.device)
        else:
            transform = self.teacher.transform
            pixels = decoded_views(
                [crops.sample["__key__"] for crops in batch],
                [crops.sample["jpg"] for crops in batch],
                [crops.views for crops in batch],
                transform.size,
                self.device,
                transform.interpolation,
            )
        return batch, adjust_colors_(pixels, [view for crops in batch for view in crops.views])

    def _launched(self, batches: Iterator[tuple[list[_Crops], Tensor]]) -> Generator[_Launched]:
        """Batches in order; with `ahead`, the next one is launched before a batch is in use."""
        launched: deque[_Launched] = deque()
        for batch, pixels in batches:
            captions = [caption for crops in batch for caption in crops.captions]
            texts = Download(launch_texts(self.teacher, captions, self.precision))
            views = Download(launch_images(self.teacher, pixels, self.precision))
            launched.append(_Launched(batch, views, texts))
            if len(launched) > self.ahead:
                yield launched.popleft()
        yield from launched

    def _members(self, launched: _Launched, where: str) -> Iterator[dict[str, Any]]:
        """The members of the samples of a batch."""
        batch = launched.batch
        view_rows = launched.views.result().split(self.crops)
        text_rows = launched.captions.result().split([len(crops.captions) for crops in batch])
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
