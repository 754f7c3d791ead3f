"""The format of teacher shards, and reading them in step with the image shards that they belong to.

A sample has three members: `fp16`, the raw little-endian block of unit vectors [views + captions,
dim]; `views`, the raw little-endian uint16 parameters [views, 9]; and `crc`, two little-endian
uint32 checksums, of the image sample that was embedded and of this sample. Raw blocks are parsed
without a copy and without a pickle, and every sample that is read is compared with its checksums: a
target never meets an image, or bits, that the teacher did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.data.views import VIEW_FIELDS, views_from_ints
from kdeov.errors import KdeovError
from pipeline.artifacts.identity import cache_identity, read_teacher_identity, require_identity
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import PairedSample, crc32_of, image_crc
from pipeline.config.params import Params
from pipeline.config.paths import Layout


def open_cache(params: Params, layout: Layout, split: str) -> PairedShards:
    """A split of this checkout with its cache.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher or other views.
    """
    identity = cache_identity(read_teacher_identity(layout.teacher), params.embed, split)
    return PairedShards(
        layout.images / split, layout.embeddings / split, identity, params.data.storage
    )


class PairedShards:
    """One split of the image shards with its teacher shards.

    Args:
        images: Folder of the image shards, or of their manifest.
        embeddings: Folder of the teacher shards, or of their manifest.
        identity: What the cache should have been made from (see `pipeline.artifacts.identity`).
        storage: Where the shards are (see `ShardFolder`).

    Raises:
        KdeovError: The two do not belong together, or the cache was made from something else.
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
            raise KdeovError(
                f"{embeddings}: its shards are not those of {images} in number or size; run "
                "`dvc repro embed`"
            )
        self.dim: int = identity["teacher"]["embed_dim"]
        self.offsets = np.concatenate([[0], np.cumsum(self.manifest.sizes)])

    def __len__(self) -> int:
        return self.manifest.samples

    def read(
        self,
        shard: int,
        wanted: Callable[[int], bool] | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[int, PairedSample]]:
        """Samples of a shard with their numbers within the split.

        Args:
            shard: Its place in the manifest.
            wanted: Picks samples by their number within the shard; None takes all.
            stop: Number within the shard before which reading ends.

        Raises:
            KdeovError: The two shards are damaged or out of step.
        """
        first = int(self.offsets[shard])
        ours, theirs = self.manifest.shards[shard], self.cache.shards[shard]
        # to the ends of both: each then compares its count with its manifest
        pairs = zip_longest(
            self.images.read(ours, wanted, stop),
            self.embeddings.read(theirs, wanted, stop),
        )
        for one, other in pairs:
            if one is None or other is None:
                continue
            (index, image), (_, vectors) = one, other
            if image["__key__"] != vectors["__key__"]:
                raise KdeovError(
                    f"{self.embeddings.where(theirs)}: sample {index} is "
                    f"{vectors['__key__']}, the image is "
                    f"{image['__key__']}; run `dvc repro -f embed`"
                )
            yield first + index, self._parse(image, vectors, ours, theirs)

    def __iter__(self) -> Iterator[PairedSample]:
        for shard in range(len(self.manifest.shards)):
            for _, sample in self.read(shard):
                yield sample

    def _parse(
        self, image: dict[str, Any], vectors: dict[str, Any], ours: Shard, shard: Shard
    ) -> PairedSample:
        block, views = vectors.get("fp16", b""), vectors.get("views", b"")
        checksums = np.frombuffer(vectors.get("crc", b"").ljust(8, b"\0")[:8], "<u4").tolist()
        try:
            jpeg, description = image["jpg"], sample_json(image)
            label, captions = description["label"], description["captions"]
            source = description["source"]
            if not self.cache.identity.get("captions", True):
                captions = []
            if image_crc(image) != checksums[0]:
                raise ValueError("its bytes are not those that were embedded")
        except (KeyError, TypeError, ValueError) as error:
            raise KdeovError(
                f"{self.images.where(ours)}: {image['__key__']} lacks its image or description, "
                f"or they changed ({error}); run `kdeov verify`, then the stage that it names"
            ) from error
        if crc32_of(block, views) != checksums[1]:
            raise KdeovError(
                f"{self.embeddings.where(shard)}: the vectors of {image['__key__']} are damaged; "
                "run `dvc repro -f embed`"
            )
        count = self.cache.identity["views"]["count"]
        rows = count + len(captions)
        if len(block) != rows * self.dim * 2 or len(views) != count * VIEW_FIELDS * 2:
            raise KdeovError(
                f"{self.embeddings.where(shard)}: {image['__key__']} has {len(block)} bytes "
                "of vectors, "
                f"{rows} of {self.dim} dimensions need {rows * self.dim * 2}; run `dvc repro "
                "-f embed`"
            )
        matrix = np.frombuffer(block, dtype="<f2").reshape(rows, self.dim)
        parameters = np.frombuffer(views, dtype="<u2").reshape(count, VIEW_FIELDS)
        return PairedSample(
            key=image["__key__"],
            source=source,
            jpeg=jpeg,
            label=label,
            captions=captions,
            views=views_from_ints(parameters.tolist()),
            view_embeddings=matrix[:count],
            text_embeddings=matrix[count:],
        )
