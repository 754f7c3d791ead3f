"""The report's part on classes: accuracy by class, confusion, and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdeov.errors import DataError
from kdeov.evaluation.calibration import BINS
from pipeline.report.classes.calibration import calibrations
from pipeline.report.classes.confusion import confused_pairs, confusion_matrix
from pipeline.report.classes.per_class import (
    ClassScore,
    class_chart,
    class_scores,
    missed_images,
    shown_rows,
    worst,
)
from pipeline.report.classes.predictions import Predictions
from pipeline.report.figures import image_jpeg
from pipeline.report.page.gallery import THUMBNAIL_SIDE, Gallery

MISSES_PER_CLASS, MAX_EXAMPLES = 3, 12


@dataclass(frozen=True)
class MissedImage:
    """A test image that the student classifies wrongly.

    Attributes:
        name: Its class.
        predicted: The class that the student predicts.
        jpeg: A thumbnail.
    """

    name: str
    predicted: str
    jpeg: bytes


def classes_part(
    predictions: Predictions, zero_shot: dict[str, Any], gallery: Gallery
) -> dict[str, Any]:
    """The values that `page/sections/classes.html.j2` shows; their size does not grow with the
    number of classes beyond some hundreds.

    Args:
        predictions: Of zero-shot classification.
        zero_shot: Metrics of the same evaluation.
        gallery: The test split.

    Raises:
        DataError: The metrics are those of a version without calibration.
    """
    if "calibration" not in zero_shot:
        raise DataError(
            "metrics/zero_shot.json: of a version without calibration; run `dvc repro zero_shot`"
        )
    scores, has_teacher = class_scores(predictions), "teacher" in predictions.predicted
    losing = worst(scores)
    pairs = confused_pairs(predictions)
    ece = {model: zero_shot[model]["ece"] for model in predictions.models}
    counts = [score.images for score in scores]
    return {
        "classes": {
            "has_teacher": has_teacher,
            "scores": scores,
            "chart": class_chart(scores),
            "kept": sum(score.loss <= 0 for score in scores),
            "losing": sum(score.loss > 0 for score in scores),
            "fewest": min(counts),
            "most": max(counts),
            "head": _head(has_teacher),
            "worst": losing,
            "worst_rows": [_row(score) for score in losing],
            "rows": [_row(score) for score in shown_rows(scores)],
            "examples": _missed(predictions, losing, gallery),
        },
        "pairs": {
            "head": [
                "true class",
                "predicted",
                "images",
                *(["by the teacher too"] if has_teacher else []),
            ],
            "rows": [
                [
                    pair.label,
                    pair.predicted,
                    f"{pair.count:,} of {pair.images:,}",
                    *([f"{pair.teacher:,}"] if pair.teacher is not None else []),
                ]
                for pair in pairs
            ],
        }
        if pairs
        else None,
        "matrix": confusion_matrix(predictions),
        "calibration": (found := calibrations(predictions, ece)),
        "calibration_rows": [
            [c.model, f"{c.ece:.3f}", f"{c.confidence:.3f}", f"{c.accuracy:.3f}", c.verdict]
            for c in found
        ],
        "bins": BINS,
        "logit_scale": zero_shot["calibration"]["logit_scale"],
    }


def _head(has_teacher: bool) -> list[str]:
    models = ["teacher", "student", "retained"] if has_teacher else ["student"]
    return ["class", "images", *models, "mostly mistaken for"]


def _row(score: ClassScore) -> list[str]:
    name = f"{score.name} (held out)" if score.is_held_out else score.name
    models = [f"{score.student:.1%}"]
    if score.teacher is not None:
        retained = f"{score.retained:.0%}" if score.retained is not None else "–"
        models = [f"{score.teacher:.1%}", *models, retained]
    return [name, f"{score.images:,}", *models, score.mistaken_for]


def _missed(
    predictions: Predictions, losing: list[ClassScore], gallery: Gallery
) -> list[MissedImage]:
    rows = [
        row
        for score in losing
        for row in missed_images(predictions, score.number, MISSES_PER_CLASS)
    ][:MAX_EXAMPLES]
    gallery.load(int(predictions.images[row]) for row in rows)
    names, predicted = predictions.names, predictions.predicted["student"]
    return [
        MissedImage(
            names[predictions.labels[row]],
            names[predicted[row]],
            image_jpeg(gallery[int(predictions.images[row])], THUMBNAIL_SIDE),
        )
        for row in rows
    ]
