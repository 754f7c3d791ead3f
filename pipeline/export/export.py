"""Stage `export`: the trained student as files that run without this project."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np

from kdeov.detection.detector import NONE, Detector, read_config
from kdeov.export.files import (
    UNKNOWN,
    ExportImages,
    ExportInfo,
    backbone_license,
    export_model,
    teacher_license,
)
from kdeov.models.model import KDEOVModel
from kdeov.prompts import templates
from kdeov.runtime.card import INT8
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.identity import read_teacher_identity
from pipeline.artifacts.run import METRICS, RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.class_names import prompt_classes
from pipeline.evaluation.shared.student import student_of
from pipeline.evaluation.shared.zero_shot_weights import zero_shot_weights
from pipeline.export.training_images import training_batches
from pipeline.storage.checked import read_checked_json

logger = logging.getLogger(__name__)


def export(params: Params, paths: Layout) -> None:
    """Writes `out/export`.

    Training images calibrate INT8 and, by the data set's classes or by their nearest neighbors,
    measure how often it agrees with float32; `export.calibration_images: 0` leaves INT8 out.
    Embeddings of `export.background_images` of them are the background of searches.

    Raises:
        KdeovError: The student or the images cannot be read, or a file differs from PyTorch.
    """
    model = student_of(paths, "cpu")
    record, dataset = RunRecord.read(paths.student), Dataset.read(paths.images)
    calibration = classes = None
    training = partial(training_batches, paths.images, params.data.storage, model.transform)
    if params.export.calibration_images:
        calibration = np.concatenate(list(training(params.export.calibration_images)))
        classes = _class_embeddings(params, paths, model, dataset)
    card = export_model(
        model,
        paths.export,
        ExportImages(calibration, classes, training(params.export.background_images)),
        _about(record, dataset, params, paths),
        _detector(paths, model),
        on_progress=lambda name: logger.info("%s ...", name),
    )
    sizes = {name: (paths.export / name).stat().st_size / 1e6 for name in sorted(card.files)}
    logger.info(
        "wrote %s: %s", paths.export, ", ".join(f"{n} {mb:.1f} MB" for n, mb in sizes.items())
    )
    if card.int8:
        logger.info(
            "%s: %.1f%% of the answers are those of float32, %d layers kept in float32",
            INT8,
            100 * card.int8["agreement"],
            len(card.int8["float32_layers"]),
        )


def _detector(paths: Layout, model: KDEOVModel) -> Detector | None:
    """The box head of the student; None where the data has no boxes."""
    if read_config(paths.boxes)["kind"] == NONE:
        return None
    return Detector.load(paths.boxes, model.student)


def _class_embeddings(
    params: Params, paths: Layout, model: KDEOVModel, dataset: Dataset
) -> np.ndarray | None:
    """[K, D] zero-shot classifier weights; None where there is nothing to choose from."""
    if not dataset.classes:
        return None
    names = prompt_classes(dataset.classes, params.zero_shot.class_names).names
    if len(names) < 2:
        return None
    prompts = templates(params.zero_shot.templates)
    return zero_shot_weights(model.text_encoder, names, prompts, paths.zero_shot_weights).numpy()


def _about(record: RunRecord, dataset: Dataset, params: Params, paths: Layout) -> ExportInfo:
    record.require(paths.metrics / METRICS, paths.student)
    metrics = read_checked_json(paths.metrics / METRICS, "distill")
    teacher = read_teacher_identity(paths.teacher)
    return ExportInfo(
        name=record.name,
        fingerprint=record.fingerprint,
        metrics={"val_cosine": metrics["val_cosine"]},
        templates=templates(params.zero_shot.templates),
        licenses={
            "data": f"{dataset.name}: {params.export.data_license or UNKNOWN}",
            "teacher": params.export.teacher_license or _teacher_license(record, teacher),
            "backbone": backbone_license(
                record.params["distill"]["backbone"],
                record.ingredients["backbone_weights"] is not None,
            ),
        },
    )


def _teacher_license(record: RunRecord, teacher: dict[str, Any]) -> str:
    """What is known of the license of a teacher's weights."""
    if record.params["teacher"]["source"] == "tiny":
        return "tiny: trained here on the same data"
    return teacher_license(teacher["library"], teacher["name"])
