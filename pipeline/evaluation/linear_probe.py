"""Stage `linear_probe`: a linear classifier on frozen embeddings, teacher against student.

Follows CLIP (Radford et al., 2021, arXiv:2103.00020, appendix A.3), with embeddings of the joint
space as features: logistic regression by L-BFGS, at most 1000 iterations, C chosen on validation
images.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from kdeov.evaluation.metrics import classification, compare
from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.answers import write_answers
from pipeline.evaluation.shared.embeddings import (
    CachedSplit,
    load_student,
    read_split,
    run_student,
    write_absent,
)
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.storage.checked import write_checked_json

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class ProbeImages:
    """The images of a split whose classes occur in training.

    Attributes:
        indices: [n] image numbers within the split.
        labels: [n] class numbers among the training classes.
    """

    indices: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ProbeData:
    """The labels of all splits.

    Attributes:
        classes: Class numbers of the data set that occur in training, in increasing order.
        splits: The images of each split.
    """

    classes: list[int]
    splits: dict[str, ProbeImages]


def linear_probe(params: Params, paths: Layout) -> None:
    """Writes `metrics/linear_probe.json`, and the answers about each test image.

    The probe is fitted on the plain views of the training images. C is the best of
    `linear_probe.C_grid` on the validation images; a final fit includes them. Test images of
    classes without training images are left out. If a split has no labels, the metrics file and
    the log give the reason.

    Raises:
        KdeovError: Inputs do not fit together.
    """
    dataset = Dataset.read(paths.images)
    fingerprint = RunRecord.read(paths.student).fingerprint
    cached = {split: read_split(params, paths, split) for split in SPLITS}
    data = probe_data(dataset, cached)
    if isinstance(data, str):
        write_absent(paths.metrics / "linear_probe.json", dataset.name, "linear probe", data)
        write_answers(paths.evaluation / "linear_probe", fingerprint, 0, {})
        return
    model = load_student(params, paths)
    embeddings = {"student": {s: run_student(params, paths, model, s).embedding for s in SPLITS}}
    teacher = {s: part.teacher for s, part in cached.items() if part.teacher is not None}
    if len(teacher) == len(cached):
        embeddings["teacher"] = teacher
    grid = sorted(params.linear_probe.C_grid)
    names = [dataset.classes[label] for label in data.classes]
    train, val, test = (data.splits[split] for split in SPLITS)
    scores, chosen = {}, {}
    for name, by_split in embeddings.items():
        chosen[name], logits = fit_probe(by_split, data.splits, grid, len(names))
        scores[name] = classification(logits, test.labels)
    result = {
        **compare(
            scores.get("teacher"),
            scores["student"],
            len(test.indices),
            params.linear_probe.bootstrap_samples,
            counts={"count": len(test.indices)},
        ),
        "fingerprint": fingerprint,
        "left_out": cached["test"].size - len(test.indices),
        "C": chosen,
        **protocol(
            "linear probe",
            images_part(dataset, ShardFolder(paths.images, params.data.storage)),
            classes_part(names),
            f"{len(train.indices)} train, {len(val.indices)} val",
            f"logistic regression, C of {', '.join(f'{value:g}' for value in grid)}",
            transform=model.transform,
            bootstrap_samples=params.linear_probe.bootstrap_samples,
        ),
    }
    write_checked_json(paths.metrics / "linear_probe.json", {dataset.name: result})
    write_answers(paths.evaluation / "linear_probe", fingerprint, len(test.indices), scores)
    logger.info(
        "linear probe top-1: %s",
        ", ".join(f"{name} {result[name]['top1']:.3f}" for name in sorted(embeddings)),
    )


def probe_data(dataset: Dataset, cached: Mapping[str, CachedSplit]) -> ProbeData | str:
    """The labels of each split, or the reason why there is no probe."""
    if not dataset.classes:
        return f"{dataset.name} has no labels"
    labels = {split: part.labels for split, part in cached.items() if part.labels is not None}
    if unlabelled := [split for split in cached if split not in labels]:
        return f"images of {', '.join(unlabelled)} have no labels"
    classes = labels["train"].unique()
    if len(classes) < 2:
        return "training images are of a single class"
    data = {}
    for split, numbers in labels.items():
        indices = torch.nonzero(torch.isin(numbers, classes)).flatten()
        data[split] = ProbeImages(indices, torch.searchsorted(classes, numbers[indices]))
        if not len(indices):
            return f"no image of {split} is of a training class"
    return ProbeData(classes.tolist(), data)


def fit_probe(
    embeddings: Mapping[str, Tensor],
    data: Mapping[str, ProbeImages],
    grid: list[float],
    num_classes: int,
) -> tuple[float, Tensor]:
    """Chooses C and fits the probe.

    Args:
        embeddings: [N, D] unit embeddings by split.
        data: Images and labels by split.
        grid: Values of C in increasing order; the smallest of equally good ones is chosen.
        num_classes: K.

    Returns:
        C, and the logits [n, K] of the test images.
    """
    x = {split: embeddings[split][part.indices].double().numpy() for split, part in data.items()}
    y = {split: part.labels.numpy() for split, part in data.items()}
    probe = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    accuracy = {}
    for value in grid:  # from the strongest regularisation on; each fit starts at the last one
        _fit(probe.set_params(C=value), x["train"], y["train"])
        accuracy[value] = probe.score(x["val"], y["val"])
    best = max(grid, key=lambda value: accuracy[value])  # the first, so the smallest, of equals
    if len(grid) > 1 and best in (grid[0], grid[-1]):
        logger.warning(
            "linear probe: C = %g, at the edge of linear_probe.C_grid; a wider grid may be better",
            best,
        )
    final = LogisticRegression(C=best, max_iter=MAX_ITERATIONS)
    _fit(final, np.concatenate([x["train"], x["val"]]), np.concatenate([y["train"], y["val"]]))
    logits = torch.from_numpy(final.decision_function(x["test"]))
    return best, torch.stack([-logits, logits], dim=1) if num_classes == 2 else logits


def _fit(probe: LogisticRegression, x: np.ndarray, y: np.ndarray) -> None:
    """Fits a probe; a fit that does not converge is logged once, in this project's words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.fit(x, y)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        logger.warning(
            "linear probe: no convergence in %d iterations at C = %g", MAX_ITERATIONS, probe.C
        )
