"""Fits the fusion module to a finished student, on the images and captions of the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.data.transform import ImageTransform
from kdeov.models.student import VisualStudent
from kdeov.training.fusion_fit import FusionData, fit_fusion, steps_of
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.stage_params import DistillParams
from pipeline.console import progress
from pipeline.data.batch import crop_view
from pipeline.data.paired_shards import PairedShards
from pipeline.runtime.device import cpu_threads
from pipeline.training.loop import TRAIN_THREADS

FUSION_SAMPLES = 16_384  # images that fusion is fitted on; their maps stay in memory
BATCH_SIZE = 64


def fit_student_fusion(
    student: VisualStudent, shards: PairedShards, params: DistillParams, device: str
) -> dict[str, float]:
    """Trains `student.fusion` in place on at most `FUSION_SAMPLES` training images under their
    plain views; the rest of the student stays as it is, and moves to the CPU.

    Args:
        student: The finished student.
        shards: The training images with their teacher embeddings.
        params: The `distill` section.
        device: Device to train on.

    Returns:
        `fusion_loss`, that of the last epoch; empty where params ask for no epoch.

    Raises:
        DataError: Shards are damaged, or there is nothing to learn from.
    """
    if not params.fusion_epochs:
        return {}
    epochs = params.fusion_epochs
    student.to(device).eval()
    with cpu_threads(TRAIN_THREADS):
        data = _features(student, shards, ImageTransform(size=params.image_size), device)
        with progress("fit fusion", epochs * steps_of(len(data.dense)), "steps") as bar:
            losses = fit_fusion(student.fusion, data, epochs, params.seed, lambda: bar.update(1))
    student.cpu()
    return {"fusion_loss": losses[-1]}


@torch.no_grad()
def _features(
    student: VisualStudent, shards: PairedShards, transform: ImageTransform, device: str
) -> FusionData:
    """The student's features of training images, and all of their captions' embeddings."""
    maps: list[Tensor] = []
    embeddings: list[Tensor] = []
    texts: list[np.ndarray] = []
    counts: list[int] = []
    samples = islice(spread(shards), FUSION_SAMPLES)
    with progress("embed train with the student", min(len(shards), FUSION_SAMPLES)) as bar:
        while batch := list(islice(samples, BATCH_SIZE)):
            pixels = torch.stack([crop_view(sample, 0, transform)[0] for sample in batch])
            output = student.with_dense(transform.normalize(pixels.to(device)))
            maps.append(output.dense.half())
            embeddings.append(F.normalize(output.embedding, dim=-1))
            texts += [sample.text_embeddings for sample in batch]
            counts += [len(sample.text_embeddings) for sample in batch]
            bar.update(len(batch))
    rows = torch.from_numpy(np.concatenate(texts).astype(np.float32)).to(device)
    numbers = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return FusionData(
        torch.cat(maps), torch.cat(embeddings), F.normalize(rows, dim=-1), numbers.to(device)
    )


def spread(shards: PairedShards) -> Iterator[PairedSample]:
    """The samples of as many shards as `FUSION_SAMPLES` images take, evenly spaced: shards may be
    in the order of classes or sources.
    """
    count = len(shards.manifest.shards)
    chosen = math.ceil(count * min(1, FUSION_SAMPLES / len(shards)))
    for place in range(chosen):
        for _, sample in shards.read(place * count // chosen):
            yield sample
