"""Stage `zero_shot`: classification by class names, teacher against student.

Protocol of CLIP (Radford et al., 2021, arXiv:2103.00020, section 3.1): the weights of a class are
the mean of its prompts' text embeddings; an image belongs to the class of the largest cosine.
"""

from __future__ import annotations

import csv
import io
import logging
from typing import Any

import numpy as np
from torch import Tensor

from kdeov.evaluation.calibration import BINS, reliability, top_confidence
from kdeov.evaluation.metrics import classification, compare
from kdeov.prompts import templates, templates_digest
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.answers import write_answers
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
from pipeline.evaluation.shared.zero_shot_weights import zero_shot_weights
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import write_text

logger = logging.getLogger(__name__)


def zero_shot(params: Params, paths: Layout) -> None:
    """Writes `metrics/zero_shot.json`, and predictions for the report and for `dvc plots`.

    A data set without labels, or with one class, has no metrics; the file and the log give the
    reason.

    Raises:
        KdeovError: Templates or classes are unknown, or inputs do not fit together.
    """
    options = params.zero_shot
    prompts = templates(options.templates)
    dataset = Dataset.read(paths.images)
    classes = prompt_classes(dataset.classes, options.class_names) if dataset.classes else None
    if classes is not None and len(classes.names) < 2:
        _write_absent(paths, dataset.name, "a classifier of one class is always right")
        return
    cached = read_split(params, paths, "test")
    if classes is None or cached.labels is None:
        owner = f"a test image of {dataset.name}" if dataset.classes else dataset.name
        _write_absent(paths, dataset.name, f"{owner} has no labels")
        return
    labels, images = classes.relabel(cached.labels)
    if not len(images):
        reason = "zero_shot.class_names leaves out the classes of all test images"
        _write_absent(paths, dataset.name, reason)
        return
    fingerprint = RunRecord.read(paths.student).fingerprint
    model = load_student(params, paths)
    weights = zero_shot_weights(model.text_encoder, classes.names, prompts, paths.zero_shot_weights)
    embeddings = {"student": run_student(params, paths, model, "test").embedding}
    if cached.teacher is not None:
        embeddings["teacher"] = cached.teacher
    logits = {name: embedding[images] @ weights.T for name, embedding in embeddings.items()}
    scale = float(model.text_encoder.logit_scale.detach().exp())
    predicted = {name: values.argmax(dim=1) for name, values in logits.items()}
    confidence = {name: top_confidence(values, scale) for name, values in logits.items()}
    held_out = [n for n, label in enumerate(classes.labels) if label in dataset.held_out_labels]
    scores = {name: classification(values, labels, held_out) for name, values in logits.items()}
    result = {
        **compare(
            scores.get("teacher"),
            scores["student"],
            len(images),
            options.bootstrap_samples,
            counts={"count": len(images)},
        ),
        "fingerprint": fingerprint,
        "classes": len(classes.names),
        "held_out_classes": len(held_out),
        "left_out": cached.size - len(images),
        "class_names": classes.digest,
        "calibration": {"bins": BINS, "logit_scale": scale},
        **protocol(
            "zero-shot",
            images_part(dataset, ShardFolder(paths.images, params.data.storage)),
            *_protocol_parts(classes, held_out, options.templates, prompts),
            transform=model.transform,
            bootstrap_samples=options.bootstrap_samples,
        ),
    }
    if cached.teacher is None:
        result |= _teacher_on_other_split(params, paths, classes, weights)
    for name, values in confidence.items():
        right = predicted[name] == labels
        result[name]["ece"] = reliability(values.numpy(), right.numpy()).ece
    write_checked_json(paths.metrics / "zero_shot.json", {dataset.name: result})
    write_arrays(
        paths.evaluation / "zero_shot" / "predictions.npz",
        fingerprint=fingerprint,
        images=images,
        labels=labels,
        names=classes.names,
        weights=weights,
        held_out=np.array(held_out, dtype=np.int64),
        **predicted,
        **{f"{name}_confidence": values for name, values in confidence.items()},
    )
    write_answers(paths.evaluation / "zero_shot", fingerprint, len(images), scores)
    write_text(
        paths.evaluation / "zero_shot" / "confusion.csv",
        _confusion(classes.names, labels, predicted["student"]),
    )
    logger.info(
        "zero-shot top-1: %s",
        ", ".join(f"{name} {result[name]['top1']:.3f}" for name in sorted(embeddings)),
    )


def _protocol_parts(
    classes: PromptClasses, held_out: list[int], set_name: str, prompts: tuple[str, ...]
) -> list[str]:
    parts = [classes_part(classes.names)]
    if held_out:
        parts.append(f"held out {classes_part([classes.names[label] for label in held_out])}")
    parts.append(f"{set_name} {templates_digest(prompts)}")
    return [*parts, f"class names {classes.digest[:8]}"] if classes.digest else parts


def _teacher_on_other_split(
    params: Params, paths: Layout, classes: PromptClasses, weights: Tensor
) -> dict[str, Any]:
    """The teacher's metrics on the first split, `val` or `train`, that has labels and teacher
    embeddings; empty if neither has.
    """
    for split in ("val", "train"):
        cached: CachedSplit = read_split(params, paths, split)
        if cached.teacher is None or cached.labels is None:
            continue
        labels, images = classes.relabel(cached.labels)
        if len(images):
            scores = classification(cached.teacher[images] @ weights.T, labels)
            samples = params.zero_shot.bootstrap_samples
            # `compare` with one model; the key of that model is `student`
            values = compare(None, scores, len(images), samples)["student"]
            return {"teacher_on": {"split": split, **values, "count": len(images)}}
    return {}


def _write_absent(paths: Layout, dataset: str, reason: str) -> None:
    write_absent(paths.metrics / "zero_shot.json", dataset, "zero-shot classification", reason)
    write_text(paths.evaluation / "zero_shot" / "confusion.csv", "actual,predicted\n")


def _confusion(classes: list[str], labels: Tensor, predicted: Tensor) -> str:
    """CSV with a line an image; `dvc plots` counts them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    writer.writerows(
        (classes[a], classes[p]) for a, p in zip(labels.tolist(), predicted.tolist(), strict=True)
    )
    return text.getvalue()
