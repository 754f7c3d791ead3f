"""What evaluation stages share: the test split under both models, and files for the report."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.errors import KdeovError
from kdeov.model import KDEOVModel
from pipeline.cache import CachedSample, open_cache
from pipeline.console import progress
from pipeline.device import pick_device
from pipeline.files import writing
from pipeline.layout import Layout
from pipeline.params import Params
from pipeline.stream import EvaluationStream

BATCH = 64


@dataclass(frozen=True)
class TestEmbeddings:
    """The test split: N pictures and M captions, in the order of the shards.

    Attributes:
        keys: N keys.
        labels: [N] class numbers, or None where pictures have none.
        teacher: [N, D] unit vectors of the pictures.
        student: [N, D] unit vectors of the pictures.
        texts: [M, D] unit vectors of the captions.
        captions: M captions.
        image_of_text: [M] the picture of each caption.
        dense: [N, D, h, w] half-precision dense maps of the student on the grid of P5; None unless
            asked for.
    """

    __test__ = False  # no test class, whatever its name

    keys: list[str]
    labels: Tensor | None
    teacher: Tensor
    student: Tensor
    texts: Tensor
    captions: list[str]
    image_of_text: Tensor
    dense: Tensor | None


@torch.no_grad()
def embed_test_split(
    params: Params, layout: Layout, model: KDEOVModel, dense: bool = False
) -> TestEmbeddings:
    """Runs the student over the test split and reads the teacher's vectors of it.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher.
    """
    shards = open_cache(params.embed, layout, "test")
    if model.embed_dim != shards.dim:
        raise KdeovError(
            f"{layout.student}: the student's vectors have {model.embed_dim} dimensions, "
            f"the teacher's have {shards.dim}; run `dvc repro distill`"
        )
    samples: list[CachedSample] = list(shards)
    student, maps = [], []
    with progress("embed test with the student", len(samples)) as meter:
        for batch in EvaluationStream(shards, model.transform, BATCH):
            pixels = model.transform.normalise(batch.pixels.to(model.device))
            if dense:
                output = model.student.with_dense(pixels)
                student.append(output.embedding)
                maps.append(output.dense.half().cpu())
            else:
                student.append(model.student(pixels))
            meter.advance(len(batch.keys))
    labels = [sample.label for sample in samples]
    return TestEmbeddings(
        keys=[sample.key for sample in samples],
        labels=None if None in labels else torch.tensor(labels),
        teacher=_unit(np.stack([sample.view_vectors[0] for sample in samples])),
        student=F.normalize(torch.cat(student).float().cpu(), dim=-1),
        texts=_unit(np.concatenate([sample.text_vectors for sample in samples])),
        captions=[caption for sample in samples for caption in sample.captions],
        image_of_text=torch.tensor(
            [n for n, sample in enumerate(samples) for _ in sample.captions]
        ),
        dense=torch.cat(maps) if dense else None,
    )


def load_student(params: Params, layout: Layout) -> KDEOVModel:
    """The trained student, where params let it run."""
    return KDEOVModel.load(layout.student, pick_device(params.cluster.use_gpu))


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


def _unit(vectors: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(vectors.astype(np.float32)), dim=-1)
