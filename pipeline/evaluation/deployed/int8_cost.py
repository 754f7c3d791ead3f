"""The cost of INT8: metrics of its embeddings minus those of float32, on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.evaluation.bootstrap import Statistic
from kdeov.evaluation.metrics import classification, retrieval
from kdeov.models.model import KDEOVModel
from kdeov.prompts import templates
from kdeov.runtime.card import IMAGE, INT8, Card
from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.loader import EvaluationStream
from pipeline.data.paired_shards import open_cache
from pipeline.evaluation.deployed.forms import available_threads, onnx_tower
from pipeline.evaluation.shared.class_names import prompt_classes
from pipeline.evaluation.shared.embeddings import BATCH_SIZE, CachedSplit, read_split
from pipeline.evaluation.shared.reranking import gains
from pipeline.evaluation.shared.zero_shot_weights import zero_shot_weights

RECALLS = ("i2t_r5", "t2i_r5")
FIRST = 5  # hits of those recalls

Towers = Mapping[str, Callable[[np.ndarray], np.ndarray]]


def int8_cost(
    params: Params, paths: Layout, model: KDEOVModel, card: Card
) -> dict[str, Any] | None:
    """Compares the embeddings of the two files of an export.

    Args:
        params: Params of the run.
        paths: Paths of the checkout.
        model: The student, for its texts and its transform.
        card: That of `out/export`.

    Returns:
        None if the export has no INT8 file; else `zero_shot` (top-1) and `retrieval` (R@5 in both
        directions). Each has its metrics with INT8, their `gain_...` over float32, which is
        negative where INT8 costs something, and the 95% `interval` of both, of the paired
        bootstrap. It is None without labels or captions, with one class, or with so few images that
        every model is right.

    Raises:
        KdeovError: Shards or export are missing or damaged, or do not fit together.
    """
    if INT8 not in card.files:
        return None
    cached = read_split(params, paths, "test", captions=True)
    towers = {file: onnx_tower(paths.export, card, file, available_threads())
              for file in (IMAGE, INT8)}  # fmt: skip
    embeddings = _embeddings(params, paths, model, towers)
    return {
        "zero_shot": _zero_shot(params, paths, model, cached, embeddings),
        "retrieval": _retrieval(params, cached, embeddings),
    }


def _embeddings(
    params: Params, paths: Layout, model: KDEOVModel, towers: Towers
) -> dict[str, Tensor]:
    """Unit embeddings [N, D] of the test images, by file."""
    found: dict[str, list[Tensor]] = {file: [] for file in towers}
    for batch in EvaluationStream(open_cache(params, paths, "test"), model.transform, BATCH_SIZE):
        pixels = batch.pixels.numpy()
        for file, embed in towers.items():
            found[file].append(torch.from_numpy(embed(pixels)))
    return {file: F.normalize(torch.cat(rows), dim=-1) for file, rows in found.items()}


def _zero_shot(
    params: Params,
    paths: Layout,
    model: KDEOVModel,
    cached: CachedSplit,
    embeddings: Mapping[str, Tensor],
) -> dict[str, Any] | None:
    options, dataset = params.zero_shot, Dataset.read(paths.images)
    if not dataset.classes or cached.labels is None:
        return None
    classes = prompt_classes(dataset.classes, options.class_names)
    labels, images = classes.relabel(cached.labels)
    if len(classes.names) < 2 or not len(images):
        return None
    prompts = templates(options.templates)
    weights = zero_shot_weights(model.text_encoder, classes.names, prompts, paths.zero_shot_weights)
    scores = {
        file: classification(values[images] @ weights.T, labels)
        for file, values in embeddings.items()
    }
    return _cost(scores, ("top1",), len(images), options.bootstrap_samples)


def _retrieval(
    params: Params, cached: CachedSplit, embeddings: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    if not cached.captions or cached.size <= FIRST:
        return None
    scores = {
        file: retrieval((cached.texts @ values.T).T, cached.image_of_text)
        for file, values in embeddings.items()
    }
    return _cost(scores, RECALLS, cached.size, params.retrieval.bootstrap_samples)


def _cost(
    scores: Mapping[str, Mapping[str, Statistic]],
    keys: tuple[str, ...],
    size: int,
    bootstrap_samples: int,
) -> dict[str, Any]:
    before, after = ({key: scores[file][key] for key in keys} for file in (IMAGE, INT8))
    cost = gains(before, after, size, bootstrap_samples)
    del cost["verdict"]  # of re-ranking
    return cost
