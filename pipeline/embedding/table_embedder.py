"""Image samples to teacher samples, where the teacher is a table of precomputed embeddings."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from kdeov.data.views import ViewPlan
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.artifacts.shards import Shard, sample_json
from pipeline.artifacts.teacher_shards import teacher_members
from pipeline.teachers.precomputed import PrecomputedTeacher

LOOKUP_BATCH = 256  # images


class TableEmbedder:
    """Embeds image shards from the tables of a teacher.

    Args:
        teacher: Tables of image and caption embeddings.
        plan: Of one view, or of none in splits whose images have no embeddings.
    """

    def __init__(self, teacher: PrecomputedTeacher, plan: ViewPlan) -> None:
        self.teacher, self.plan = teacher, plan

    def samples(
        self, images: ShardFolder, shard: Shard, advance: Callable[[int], object]
    ) -> Iterator[dict[str, Any]]:
        """Teacher samples of an image shard, in its order (see `ShardEmbedder.samples`)."""
        raw = images.read_verified(shard)
        while batch := list(islice(raw, LOOKUP_BATCH)):
            described = [{"key": s["__key__"], **sample_json(s)} for s in batch]
            image_embeddings = self.teacher.image_embeddings(described) if self.plan.count else None
            for number, (sample, description) in enumerate(zip(batch, described, strict=True)):
                if image_embeddings is None:
                    rows = [np.empty((0, self.teacher.embed_dim), np.float16)]
                else:
                    captions = self.teacher.caption_embeddings(description["captions"])
                    rows = [image_embeddings[number, None], captions]
                size = Image.open(io.BytesIO(sample["jpg"])).size
                views = self.plan.draw_all(sample["__key__"], size)
                yield teacher_members(sample, np.concatenate(rows), views)
            advance(len(batch))
