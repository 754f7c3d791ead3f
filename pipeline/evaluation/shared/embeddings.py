"""A split as the evaluations read it: cached teacher embeddings, labels, captions, and the
student's embeddings of the same images.
"""

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

from kdeov.errors import DataError
from kdeov.models.model import KDEOVModel
from kdeov.weights.digests import require_sha256
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.console import progress
from pipeline.data.loader import EvaluationStream
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.shared.student import student_of
from pipeline.runtime.device import pick_device
from pipeline.storage.checked import fix_of, read_checked_json, write_checked_json
from pipeline.storage.files import sha256_file, writing

BATCH_SIZE = 64
ABSENT_KEY = "absent"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedSplit:
    """The cached data of a split: N images and M captions, in the order of the shards.

    Attributes:
        labels: [N] class numbers; None if an image has none.
        teacher: [N, D] unit teacher embeddings of the plain views; None if the cache has none for
            this split.
        captions: M captions.
        texts: [M, D] unit teacher embeddings of the captions.
        image_of_text: [M] number of the image that each caption describes.
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
        """Collects samples; their image bytes are not kept in memory.

        Args:
            samples: N samples.
            dim: Width of the embeddings, D.
            captions: Whether to collect captions and their embeddings; otherwise M is 0.
        """
        labels: list[int | None] = []
        image_blocks: list[np.ndarray] = []
        text_blocks: list[np.ndarray] = []
        texts: list[str] = []
        image_numbers: list[int] = []
        for number, sample in enumerate(samples):
            labels.append(sample.label)
            # a slice without copy would keep the embeddings of all views in memory
            image_blocks.append(sample.view_embeddings[:1].copy())
            if captions:
                texts += sample.captions
                image_numbers += [number] * len(sample.captions)
                text_blocks.append(sample.text_embeddings)
        teacher = _unit_rows(image_blocks, dim)
        return cls(
            labels=None if None in labels else torch.tensor(labels),
            teacher=teacher if len(teacher) == len(labels) else None,
            captions=texts,
            texts=_unit_rows(text_blocks, dim),
            image_of_text=torch.tensor(image_numbers, dtype=torch.long),
            size=len(labels),
        )


@dataclass(frozen=True)
class StudentEmbeddings:
    """The student's output for N images.

    Attributes:
        embedding: [N, D] float32 unit embeddings, on the CPU.
        dense: [N, D, h, w] float16 dense maps on a coarse grid; None unless asked for.
    """

    embedding: Tensor
    dense: Tensor | None


def read_split(params: Params, paths: Layout, split: str, captions: bool = False) -> CachedSplit:
    """Reads the cached data of a split, with captions if asked for.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher.
    """
    shards = open_cache(params, paths, split)
    return CachedSplit.of(shards, shards.dim, captions)


@torch.no_grad()
def run_student(
    params: Params, paths: Layout, model: KDEOVModel, split: str, dense: bool = False
) -> StudentEmbeddings:
    """Embeds the images of a split with the student.

    Args:
        params: Params of the run.
        paths: Paths of the checkout.
        model: The student.
        split: Name of the split.
        dense: Whether to keep the dense maps too.

    Raises:
        KdeovError: Shards are missing, damaged, or made from another teacher; or the student's
            embeddings are not as wide as the teacher's.
    """
    shards = open_cache(params, paths, split)
    if model.embed_dim != shards.dim:
        raise DataError(
            f"{paths.student}: the student's embeddings have {model.embed_dim} dimensions, "
            f"the teacher's have {shards.dim}; run `dvc repro distill`"
        )
    embeddings, maps = [], []
    with progress(f"embed {split} with the student", len(shards)) as bar:
        for batch in EvaluationStream(shards, model.transform, BATCH_SIZE):
            pixels = model.transform.normalize(batch.pixels.to(model.device))
            if dense:
                output = model.student.with_dense(pixels)
                embeddings.append(output.embedding)
                maps.append(output.dense.half().cpu())
            else:
                embeddings.append(model.student(pixels))
            bar.update(len(batch.keys))
    return StudentEmbeddings(
        embedding=F.normalize(torch.cat(embeddings).float().cpu(), dim=-1),
        dense=torch.cat(maps) if dense else None,
    )


def load_student(params: Params, paths: Layout) -> KDEOVModel:
    """Loads the trained student on the device that `cluster.use_gpu` allows.

    Raises:
        DataError: Its files are missing or damaged.
    """
    return student_of(paths, pick_device(params.cluster.use_gpu))


def write_absent(path: Path, dataset: str, task: str, reason: str) -> None:
    """Writes the metrics file of an evaluation that cannot run on this data set, and logs why.

    Args:
        path: The metrics file.
        dataset: Name of the data set.
        task: Name of the evaluation, for the log.
        reason: Why it cannot run, such as `scenes has no labels`.
    """
    logger.warning("%s: no %s", reason, task)
    write_checked_json(path, {dataset: {ABSENT_KEY: reason}})


def write_arrays(path: Path, **arrays: npt.ArrayLike) -> None:
    """Writes an `.npz` file: no pickles, and equal arrays give equal bytes. Its digest goes into a
    JSON file of the same name.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
    with writing(path) as file:
        file.write(buffer.getvalue())
    write_checked_json(path.with_suffix(".json"), {path.name: sha256_file(path)})


def read_arrays(path: Path, fingerprint: str | None = None) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Args:
        path: The `.npz` file, in the folder of its stage.
        fingerprint: Of the run that the entry `fingerprint` must name; None allows any.

    Raises:
        DataError: The file is missing, damaged or edited, or of another run.
    """
    stage, described = path.parent.name, path.with_suffix(".json")
    sha256 = read_checked_json(described, stage).get(path.name)
    require_sha256(path, sha256, described, fix_of(stage))
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if fingerprint is not None and (found := str(arrays.get("fingerprint"))) != fingerprint:
        raise DataError(f"{path}: of the run {found}, not {fingerprint}; {fix_of(stage)}")
    return arrays


def _unit_rows(blocks: list[np.ndarray], dim: int) -> Tensor:
    """Concatenates blocks [n, dim] and scales each row to unit length, in float32."""
    rows = np.concatenate([np.empty((0, dim), np.float32), *blocks])
    return F.normalize(torch.from_numpy(rows.astype(np.float32)), dim=-1)
