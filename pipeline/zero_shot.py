"""Stage `zero_shot`: classification by class names that neither teacher nor student was trained to
tell apart.
"""

from __future__ import annotations

import csv
import io
import logging

import torch

from kdeov.metrics import classification, retained
from kdeov.prompts import templates, templates_digest
from pipeline.dataset import Dataset
from pipeline.evaluation import embed_test_split, load_student, write_arrays
from pipeline.files import digest, write_json, write_text
from pipeline.layout import Layout
from pipeline.params import Params

logger = logging.getLogger(__name__)


def zero_shot(params: Params, layout: Layout) -> None:
    """Writes `metrics/zero_shot.json`, and predictions for the report and `dvc plots`.

    A data set without labels has nothing to classify; its metrics are empty, and the log says so.

    Raises:
        KdeovError: Unknown templates, or inputs that do not fit together.
    """
    prompts = templates(params.zero_shot.templates)
    dataset = Dataset.read(layout.images)
    out = layout.evaluation / "zero_shot"
    if not dataset.classes:
        logger.warning("%s has no labels: nothing to classify", dataset.name)
        write_json(layout.metrics / "zero_shot.json", {})
        write_text(out / "confusion.csv", "actual,predicted\n")
        return
    model = load_student(params, layout)
    test = embed_test_split(params, layout, model)

    assert test.labels is not None  # a source with classes labels every picture
    vectors = model.text_encoder.class_vectors(dataset.classes, prompts).cpu()
    logits = {"teacher": test.teacher @ vectors.T, "student": test.student @ vectors.T}
    scores = {
        name: classification(values, test.labels, dataset.held_out_labels)
        for name, values in logits.items()
    }
    protocol = (
        f"zero-shot/{len(dataset.classes)} classes {digest(dataset.classes)[:8]}/"
        f"{params.zero_shot.templates} {templates_digest(prompts)}/{model.transform.size} px center"
    )
    result = {
        **scores,
        "retained": retained(scores["teacher"], scores["student"]),
        "protocol": protocol,
    }
    write_json(layout.metrics / "zero_shot.json", {dataset.name: result})
    predicted = {name: values.argmax(dim=1) for name, values in logits.items()}
    write_arrays(out / "predictions.npz", labels=test.labels, **predicted)
    write_text(
        out / "confusion.csv", _confusion(dataset.classes, test.labels, predicted["student"])
    )
    logger.info(
        "top-1: teacher %.3f, student %.3f", scores["teacher"]["top1"], scores["student"]["top1"]
    )


def _confusion(classes: list[str], labels: torch.Tensor, predicted: torch.Tensor) -> str:
    """One row a picture, as `dvc plots` counts them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    writer.writerows(
        (classes[a], classes[p]) for a, p in zip(labels.tolist(), predicted.tolist(), strict=True)
    )
    return text.getvalue()
