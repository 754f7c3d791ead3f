"""Reads image shards and their teacher shards in step.

Keys are compared, and every sample with its checksums (see `pipeline.artifacts.teacher_shards`): a
cached embedding never meets an image that the teacher did not embed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.data.views import VIEW_FIELDS, views_from_ints
from kdeov.errors import DataError
from pipeline.artifacts.identity import (
    cache_identity,
    read_teacher_identity,
    require_identity,
    shown_classes,
)
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import PairedSample, crc32_of, image_crc
from pipeline.config.params import Params
from pipeline.config.paths import Layout


def open_cache(params: Params, paths: Layout, split: str) -> PairedShards:
    """The image shards of a split with their teacher shards.

    Raises:
        DataError: Shards are missing or damaged, or were computed with another teacher or other
            views.
    """
    classes = shown_classes(params.embed, paths.images)
    identity = cache_identity(read_teacher_identity(paths.teacher), params.embed, split, classes)
    return PairedShards(
        paths.images / split, paths.embeddings / split, identity, params.data.storage
    )


class PairedShards:
    """One split of the image shards with its teacher shards.

    Args:
        images: Folder of the image shards, or of their manifest.
        embeddings: Folder of the teacher shards, or of their manifest.
        identity: The identity that the cache must have (see `pipeline.artifacts.identity`).
        storage: Where the shards are (see `ShardFolder`).

    Raises:
        DataError: The two do not belong together, or the cache has another identity.
    """

    def __init__(
        self,
        images: Path,
        embeddings: Path,
        identity: dict[str, Any],
        storage: str | None = None,
    ) -> None:
        self.images = ShardFolder(images, storage)
        self.embeddings = ShardFolder(embeddings, storage)
        self.manifest = self.images.manifest()
        self.cache = self.embeddings.manifest()
        require_identity(identity, self.cache.identity, embeddings / "manifest.json")
        if [(s.name, s.samples) for s in self.manifest.shards] != [
            (s.name, s.samples) for s in self.cache.shards
        ]:
            raise DataError(
                f"{embeddings}: names or sizes of its shards differ from those of {images}; run "
                "`dvc repro embed`"
            )
        self.dim: int = identity["teacher"]["embed_dim"]
        self.num_views: int = identity["views"]["count"]
        self.num_regions: int = identity.get("regions", {}).get("count", 0)
        self.offsets = np.concatenate([[0], np.cumsum(self.manifest.sizes)])

    def __len__(self) -> int:
        return self.manifest.samples

    def read(
        self,
        shard: int,
        wanted: Callable[[int], bool] | None = None,
        stop: int | None = None,
        start: int = 0,
    ) -> Iterator[tuple[int, PairedSample]]:
        """Samples of a shard with their numbers within the split.

        Args:
            shard: Index of the shard in the manifest.
            wanted: Selects samples by their number within the shard; None reads all.
            stop: Number within the shard before which reading ends.
            start: Number within the shard at which reading begins.

        Raises:
            DataError: The two shards are damaged or out of step.
        """
        first = int(self.offsets[shard])
        image_shard, teacher_shard = self.manifest.shards[shard], self.cache.shards[shard]
        # both are read to their ends, where each compares its count with its manifest
        pairs = zip_longest(
            self.images.read(image_shard, wanted, stop, start),
            self.embeddings.read(teacher_shard, wanted, stop, start),
        )
        for image_sample, teacher_sample in pairs:
            if image_sample is None or teacher_sample is None:
                continue
            (index, image), (_, teacher) = image_sample, teacher_sample
            if image["__key__"] != teacher["__key__"]:
                raise DataError(
                    f"{self.embeddings.where(teacher_shard)}: sample {index} has the key "
                    f"{teacher['__key__']}, the image shard has {image['__key__']}; run "
                    "`dvc repro -f embed`"
                )
            yield first + index, self._parse(image, teacher, image_shard, teacher_shard)

    def __iter__(self) -> Iterator[PairedSample]:
        for shard in range(len(self.manifest.shards)):
            for _, sample in self.read(shard):
                yield sample

    def _parse(
        self,
        image: dict[str, Any],
        teacher: dict[str, Any],
        image_shard: Shard,
        teacher_shard: Shard,
    ) -> PairedSample:
        block, views = teacher.get("fp16", b""), teacher.get("views", b"")
        checksums = np.frombuffer(teacher.get("crc", b"").ljust(8, b"\0")[:8], "<u4").tolist()
        try:
            jpeg, description = image["jpg"], sample_json(image)
            label, captions = description["label"], description["captions"]
            source, objects = description["source"], description.get("objects", [])
            if not self.cache.identity.get("captions", True):
                captions = []
            if image_crc(image) != checksums[0]:
                raise ValueError("its checksum differs from that of the embedded image")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.images.where(image_shard)}: {image['__key__']} lacks its image or "
                f"description, or they changed ({error}); run `kdeov verify`, then the stage that "
                "it names"
            ) from error
        if crc32_of(block, views) != checksums[1]:
            raise DataError(
                f"{self.embeddings.where(teacher_shard)}: the embeddings of {image['__key__']} are "
                "damaged; run `dvc repro -f embed`"
            )
        views_end, crops = self.num_views, self.num_views + self.num_regions
        rows = crops + len(captions)
        if len(block) != rows * self.dim * 2 or len(views) != crops * VIEW_FIELDS * 2:
            raise DataError(
                f"{self.embeddings.where(teacher_shard)}: {image['__key__']} has {len(block)} "
                f"bytes of embeddings, but {rows} of {self.dim} dimensions take "
                f"{rows * self.dim * 2}; run `dvc repro -f embed`"
            )
        matrix = np.frombuffer(block, dtype="<f2").reshape(rows, self.dim)
        parameters = np.frombuffer(views, dtype="<u2").reshape(crops, VIEW_FIELDS)
        drawn = views_from_ints(parameters.tolist())
        return PairedSample(
            key=image["__key__"],
            source=source,
            jpeg=jpeg,
            label=label,
            captions=captions,
            views=drawn[:views_end],
            view_embeddings=matrix[:views_end],
            text_embeddings=matrix[crops:],
            regions=drawn[views_end:],
            region_embeddings=matrix[views_end:crops],
            objects=objects,
        )
