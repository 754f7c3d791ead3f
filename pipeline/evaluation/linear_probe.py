"""Stage `linear_probe`: how well a linear classifier on frozen embeddings tells the classes apart,
teacher against student, after CLIP's (appendix A.3), on the joint embedding.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from kdeov.evaluation.metrics import classification, compare
from pipeline.artifacts.dataset import SPLITS, Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.embeddings import (
    CachedSplit,
    load_student,
    read_split,
    run_student,
    write_absent,
)
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.storage.files import write_json

logger = logging.getLogger(__name__)

ITERATIONS = 1000


@dataclass(frozen=True)
class Labelled:
    """Images of the classes that a probe can learn.

    Attributes:
        rows: [n] their numbers within the split.
        labels: [n] numbers among these classes.
    """

    rows: Tensor
    labels: Tensor


def linear_probe(params: Params, layout: Layout) -> None:
    """Writes `metrics/linear_probe.json`.

    The probe learns from the plain view of the training images; the validation split chooses its
    regularisation and is then learned from too. Test images of classes that training never shows
    are left out. Where a split has no labels there is no probe; metrics and log say so.

    Raises:
        KdeovError: Inputs do not fit together.
    """
    dataset = Dataset.read(layout.images)
    cached = {split: read_split(params, layout, split) for split in SPLITS}
    data = _labelled(dataset, cached)
    if isinstance(data, str):
        write_absent(layout.metrics / "linear_probe.json", dataset.name, "linear probe", data)
        return
    model = load_student(params, layout)
    embeddings = {"student": {s: run_student(params, layout, model, s).embedding for s in SPLITS}}
    if all(part.teacher is not None for part in cached.values()):
        embeddings["teacher"] = {
            s: part.teacher for s, part in cached.items() if part.teacher is not None
        }
    grid = sorted(params.linear_probe.C_grid)
    names = [dataset.classes[label] for label in _classes(cached["train"])]
    scores, chosen = {}, {}
    for who, vectors in embeddings.items():
        chosen[who], logits = _probe(vectors, data, grid, len(names))
        scores[who] = classification(logits, data["test"].labels)
    result = {
        **compare(
            scores.get("teacher"), scores["student"], len(data["test"].rows),
            params.linear_probe.bootstrap_samples, counts={"count": len(data["test"].rows)},
        ),
        "left_out": cached["test"].size - len(data["test"].rows),
        "C_grid": chosen,
        **protocol(
            "linear probe", images_part(dataset, layout.images), classes_part(names),
            f"{len(data['train'].rows)} train, {len(data['val'].rows)} val",
            f"logistic regression, C of {', '.join(f'{value:g}' for value in grid)}",
            transform=model.transform, bootstrap_samples=params.linear_probe.bootstrap_samples,
        ),
    }  # fmt: skip
    write_json(layout.metrics / "linear_probe.json", {dataset.name: result})
    logger.info(
        "top-1 of a linear probe: %s",
        ", ".join(f"{who} {result[who]['top1']:.3f}" for who in sorted(embeddings)),
    )


def _labelled(dataset: Dataset, cached: dict[str, CachedSplit]) -> dict[str, Labelled] | str:
    """What there is to learn and to recognise in each split, or why there is nothing."""
    if not dataset.classes:
        return f"{dataset.name} has no labels"
    if bare := [split for split, part in cached.items() if part.labels is None]:
        return f"images of {', '.join(bare)} have no labels"
    classes = torch.tensor(_classes(cached["train"]))
    if len(classes) < 2:
        return "training images are of a single class"
    data = {}
    for split, part in cached.items():
        assert part.labels is not None
        rows = torch.nonzero(torch.isin(part.labels, classes)).flatten()
        data[split] = Labelled(rows, torch.searchsorted(classes, part.labels[rows]))
        if not len(rows):
            return f"no image of {split} is of a training class"
    return data


def _classes(train: CachedSplit) -> list[int]:
    """The classes that training shows."""
    assert train.labels is not None
    return train.labels.unique().tolist()


def _probe(
    vectors: dict[str, Tensor], data: dict[str, Labelled], grid: list[float], classes: int
) -> tuple[float, Tensor]:
    """The chosen C and the logits [n, K] of the test images."""
    x = {split: vectors[split][part.rows].double().numpy() for split, part in data.items()}
    y = {split: part.labels.numpy() for split, part in data.items()}
    probe = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    accuracy = {}
    for value in grid:  # from the simplest on, each from where the last one ended
        _fit(probe.set_params(C=value), x["train"], y["train"])
        accuracy[value] = probe.score(x["val"], y["val"])
    best = max(grid, key=lambda value: accuracy[value])  # the simplest of equals
    if len(grid) > 1 and best in (grid[0], grid[-1]):
        logger.warning(
            "C = %g is chosen, at the edge of linear_probe.C_grid; a wider grid may do better",
            best,
        )
    final = LogisticRegression(C=best, max_iter=ITERATIONS)
    _fit(final, np.concatenate([x["train"], x["val"]]), np.concatenate([y["train"], y["val"]]))
    logits = torch.from_numpy(final.decision_function(x["test"]))
    return best, torch.stack([-logits, logits], dim=1) if classes == 2 else logits


def _fit(probe: LogisticRegression, x: np.ndarray, y: np.ndarray) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.fit(x, y)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        logger.warning("a probe of C = %g did not converge in %d steps", probe.C, ITERATIONS)
