"""Stage `zero_shot`: classification by class names that neither teacher nor student was trained to
tell apart.
"""

from __future__ import annotations

import csv
import io
import logging
from typing import Any

import torch
from torch import Tensor

from kdeov.evaluation.metrics import classification, compare
from kdeov.prompts import templates, templates_digest
from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.class_names import PromptClasses, prompt_classes
from pipeline.evaluation.shared.embeddings import (
    CachedSplit,
    load_student,
    read_split,
    run_student,
    write_absent,
    write_arrays,
)
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.evaluation.shared.zero_shot_weights import class_embeddings
from pipeline.storage.files import write_json, write_text

logger = logging.getLogger(__name__)


def zero_shot(params: Params, layout: Layout) -> None:
    """Writes `metrics/zero_shot.json`, and predictions for the report and `dvc plots`.

    A data set without labels has nothing to classify; metrics and log say so.

    Raises:
        KdeovError: Unknown templates or classes, or inputs that do not fit together.
    """
    options = params.zero_shot
    prompts = templates(options.templates)
    dataset = Dataset.read(layout.images)
    classes = prompt_classes(dataset.classes, options.class_names) if dataset.classes else None
    cached = read_split(params, layout, "test")
    if classes is None or cached.labels is None:
        who = f"some test image of {dataset.name}" if dataset.classes else dataset.name
        _write_nothing(layout, dataset.name, f"{who} has no labels")
        return
    labels, rows = _relabel(cached.labels, classes)
    if not len(rows):
        reason = "zero_shot.class_names leaves out the classes of all test images"
        _write_nothing(layout, dataset.name, reason)
        return
    model = load_student(params, layout)
    vectors = class_embeddings(model.text_encoder, classes.names, prompts, layout.heads)
    embeddings = {"student": run_student(params, layout, model, "test").embedding}
    if cached.teacher is not None:
        embeddings["teacher"] = cached.teacher
    logits = {who: images[rows] @ vectors.T for who, images in embeddings.items()}
    held_out = [n for n, label in enumerate(classes.labels) if label in dataset.held_out_labels]
    scores = {who: classification(values, labels, held_out) for who, values in logits.items()}
    result = {
        **compare(
            scores.get("teacher"), scores["student"], len(rows), options.bootstrap_samples,
            counts={"count": len(rows)},
        ),
        "classes": len(classes.names),
        "held_out_classes": len(held_out),
        "left_out": cached.size - len(rows),
        "class_names": classes.digest,
        **protocol(
            "zero-shot", images_part(dataset, layout.images),
            *_parts(classes, held_out, options.templates, prompts),
            transform=model.transform, bootstrap_samples=options.bootstrap_samples,
        ),
    }  # fmt: skip
    if cached.teacher is None:
        result |= _teacher_elsewhere(params, layout, classes, vectors)
    write_json(layout.metrics / "zero_shot.json", {dataset.name: result})
    predicted = {who: values.argmax(dim=1) for who, values in logits.items()}
    write_arrays(
        layout.evaluation / "zero_shot" / "predictions.npz",
        images=rows, labels=labels, names=classes.names, vectors=vectors, **predicted,
    )  # fmt: skip
    write_text(
        layout.evaluation / "zero_shot" / "confusion.csv",
        _confusion(classes.names, labels, predicted["student"]),
    )
    logger.info(
        "top-1: %s", ", ".join(f"{who} {result[who]['top1']:.3f}" for who in sorted(embeddings))
    )


def _relabel(labels: Tensor, classes: PromptClasses) -> tuple[Tensor, Tensor]:
    """The numbers of the images whose class is kept, and their labels among the kept classes."""
    place = torch.full((int(labels.max()) + 1,), -1)
    for new, old in enumerate(classes.labels):
        if old < len(place):
            place[old] = new
    rows = torch.nonzero(place[labels] >= 0).flatten()
    return place[labels][rows], rows


def _parts(
    classes: PromptClasses, held_out: list[int], set_name: str, prompts: tuple[str, ...]
) -> list[str]:
    parts = [classes_part(classes.names)]
    if held_out:
        parts.append(f"held out {classes_part([classes.names[label] for label in held_out])}")
    parts.append(f"{set_name} {templates_digest(prompts)}")
    return [*parts, f"class names {classes.digest[:8]}"] if classes.digest else parts


def _teacher_elsewhere(
    params: Params, layout: Layout, classes: PromptClasses, vectors: Tensor
) -> dict[str, Any]:
    """The teacher's own accuracy on a split that it has seen, where there is one with labels."""
    for split in ("val", "train"):
        cached: CachedSplit = read_split(params, layout, split)
        if cached.teacher is None or cached.labels is None:
            continue
        labels, rows = _relabel(cached.labels, classes)
        if len(rows):
            scores = classification(cached.teacher[rows] @ vectors.T, labels)
            own = compare(None, scores, len(rows), params.zero_shot.bootstrap_samples)["student"]
            return {"teacher_on": {"split": split, **own, "count": len(rows)}}
    return {}


def _write_nothing(layout: Layout, dataset: str, reason: str) -> None:
    write_absent(layout.metrics / "zero_shot.json", dataset, "zero-shot classification", reason)
    out = layout.evaluation / "zero_shot"
    write_text(out / "confusion.csv", "actual,predicted\n")


def _confusion(classes: list[str], labels: torch.Tensor, predicted: torch.Tensor) -> str:
    """One row an image, as `dvc plots` counts them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    writer.writerows(
        (classes[a], classes[p]) for a, p in zip(labels.tolist(), predicted.tolist(), strict=True)
    )
    return text.getvalue()
