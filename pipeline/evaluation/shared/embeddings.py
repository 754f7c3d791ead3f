"""What evaluation stages share: a split under both models, and files for the report."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.errors import KdeovError
from kdeov.models.model import KDEOVModel
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import progress
from pipeline.data.loader import EvaluationStream
from pipeline.data.paired_shards import open_cache
from pipeline.runtime.device import pick_device
from pipeline.storage.files import write_json, writing

BATCH = 64
ABSENT = "absent"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedSplit:
    """What shards know of a split: N images and M captions, in the order of the shards.

    Attributes:
        labels: [N] class numbers, or None where an image has none.
        teacher: [N, D] unit vectors of the images' plain views, or None where the teacher has
            not seen this split.
        captions: M captions.
        texts: [M, D] unit vectors of the captions.
        image_of_text: [M] the image of each caption.
        size: N.
    """

    labels: Tensor | None
    teacher: Tensor | None
    captions: list[str]
    texts: Tensor
    image_of_text: Tensor
    size: int

    @classmethod
    def of(cls, samples: Iterable[PairedSample], dim: int, captions: bool) -> CachedSplit:
        """What is known of samples, whose images do not stay in memory.

        Args:
            samples: N of them.
            dim: Width of the vectors, D.
            captions: Whether captions and their vectors are wanted; else M is 0.
        """
        labels: list[int | None] = []
        teacher: list[np.ndarray] = []
        texts: list[np.ndarray] = []
        words: list[str] = []
        owners: list[int] = []
        for number, sample in enumerate(samples):
            labels.append(sample.label)
            teacher.append(sample.view_embeddings[:1].copy())  # a view keeps all others in memory
            if captions:
                words += sample.captions
                owners += [number] * len(sample.captions)
                texts.append(sample.text_embeddings)
        vectors = _unit(teacher, dim)
        return cls(
            labels=None if None in labels else torch.tensor(labels),
            teacher=vectors if len(vectors) == len(labels) else None,
            captions=words,
            texts=_unit(texts, dim),
            image_of_text=torch.tensor(owners, dtype=torch.long),
            size=len(labels),
        )


@dataclass(frozen=True)
class StudentVectors:
    """What the student makes of N images.

    Attributes:
        embedding: [N, D] unit vectors.
        dense: [N, D, h, w] half-precision dense maps on the grid of P5; None unless asked for.
    """

    embedding: Tensor
    dense: Tensor | None


def read_split(params: Params, layout: Layout, split: str, captions: bool = False) -> CachedSplit:
    """What the shards of a split know of it.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher.
    """
    shards = open_cache(params, layout, split)
    return CachedSplit.of(shards, shards.dim, captions)


@torch.no_grad()
def run_student(
    params: Params, layout: Layout, model: KDEOVModel, split: str, dense: bool = False
) -> StudentVectors:
    """Runs the student over a split.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher.
    """
    shards = open_cache(params, layout, split)
    if model.embed_dim != shards.dim:
        raise KdeovError(
            f"{layout.student}: the student's vectors have {model.embed_dim} dimensions, "
            f"the teacher's have {shards.dim}; run `dvc repro distill`"
        )
    vectors, maps = [], []
    with progress(f"embed {split} with the student", len(shards)) as bar:
        for batch in EvaluationStream(shards, model.transform, BATCH):
            pixels = model.transform.normalize(batch.pixels.to(model.device))
            if dense:
                output = model.student.with_dense(pixels)
                vectors.append(output.embedding)
                maps.append(output.dense.half().cpu())
            else:
                vectors.append(model.student(pixels))
            bar.update(len(batch.keys))
    return StudentVectors(
        embedding=F.normalize(torch.cat(vectors).float().cpu(), dim=-1),
        dense=torch.cat(maps) if dense else None,
    )


def load_student(params: Params, layout: Layout) -> KDEOVModel:
    """The trained student, where params let it run."""
    return KDEOVModel.load(layout.student, pick_device(params.cluster.use_gpu))


def write_absent(path: Path, dataset: str, task: str, reason: str) -> None:
    """Metrics of an evaluation that has nothing to measure: they and the log say why."""
    logger.warning("%s: no %s", reason, task)
    write_json(path, {dataset: {ABSENT: reason}})


def write_arrays(path: Path, **arrays: npt.ArrayLike) -> None:
    """Arrays for the report, byte-identical for equal contents and readable without pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
    with writing(path) as file:
        file.write(buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The inverse of `write_arrays`."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _unit(blocks: list[np.ndarray], dim: int) -> Tensor:
    """Blocks of rows [n, dim] as one of float32 unit rows."""
    rows = np.concatenate([np.empty((0, dim), np.float32), *blocks])
    return F.normalize(torch.from_numpy(rows.astype(np.float32)), dim=-1)
