"""Stage `detection`: objects found by the names of their classes, and what limits it.

Average precision is that of COCO (see `kdeov.evaluation.detection`). Class-agnostic recall shows
what the boxes are worth, and the row of true boxes what the regions are worth, each without the
other.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.detection.detector import NONE, Detector, read_config
from kdeov.evaluation.detection import average_precision
from kdeov.evaluation.matching import Matches, match, precision_draws
from kdeov.prompts import templates, templates_digest
from kdeov.teachers.base import TowerTeacher
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.run import RunRecord
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.objects.annotated import (
    Annotated,
    read_images,
    read_objects,
    read_stored_images,
)
from pipeline.evaluation.objects.crops import embed_crops
from pipeline.evaluation.objects.finding import DetectorRun, run_detector
from pipeline.evaluation.objects.groups import (
    ALL,
    EVERY_IOU,
    class_groups,
    num_seen,
    precision_of,
    true_boxes_of,
)
from pipeline.evaluation.shared.embeddings import load_student, write_absent, write_arrays
from pipeline.evaluation.shared.protocol import classes_part, images_part, protocol
from pipeline.evaluation.shared.zero_shot_weights import zero_shot_weights
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import digest
from pipeline.teachers.load import load_teacher

logger = logging.getLogger(__name__)

SPLIT = "test"


def detection(params: Params, paths: Layout) -> None:
    """Writes `metrics/detection.json`, and detections for the report.

    Data without boxes, or a student without a box head, have no metrics; the file and the log
    give the reason.

    Raises:
        KdeovError: Inputs are missing, damaged or do not fit together, or templates are unknown.
    """
    options, dataset = params.detection, Dataset.read(paths.images)
    prompts = templates(options.templates)
    if not dataset.object_classes:
        _write_absent(paths, dataset.name, f"{dataset.name} has no boxes")
        return
    config = read_config(paths.boxes)
    if config["kind"] == NONE:
        _write_absent(paths, dataset.name, "train_boxes.kind is none, so there is no box head")
        return
    annotated = read_objects(dataset, paths.images, params.data.storage, SPLIT)
    if not len(annotated.plain):
        _write_absent(paths, dataset.name, f"the test images of {dataset.name} have no boxes")
        return
    model = load_student(params, paths)
    detector = Detector.load(paths.boxes, model.student)
    weights = zero_shot_weights(
        model.text_encoder, dataset.object_classes, prompts, paths.zero_shot_weights
    )
    images = (paths.images, params.data.storage, SPLIT)
    run = run_detector(detector, read_images(*images), annotated, weights, options)
    teacher = load_teacher(paths.teacher, str(model.device))
    crops = None
    if isinstance(teacher, TowerTeacher):
        crops = (
            embed_crops(teacher, read_stored_images(*images), annotated, options.crop_margin)
            @ weights.T
        )
    groups = class_groups(dataset, detector.boxes_seen)
    fingerprint = RunRecord.read(paths.student).fingerprint
    regions = run.regions.float() @ weights.T
    matches = match(annotated.objects, run.found, options.max_detections)
    result = {
        "fingerprint": fingerprint,
        "boxes": digest(config),
        "count": annotated.objects.num_images,
        "left_out": {
            "crowds": int(annotated.objects.crowd.sum()),
            "boxes of other classes": annotated.other_classes,
            "boxes of no area": annotated.no_area,
            "images without objects": annotated.bare,
        },
        "classes": len(dataset.object_classes),
        "boxes_seen": sorted(detector.boxes_seen),
        **_metrics(annotated, run, matches, groups, params),
        "true_boxes": {
            name: true_boxes_of(
                numbers,
                annotated.objects.take(annotated.plain),
                regions,
                crops,
                options.bootstrap_samples,
            )
            for name, numbers in groups.items()
        },
        **protocol(
            "detection",
            images_part(dataset, ShardFolder(paths.images, params.data.storage)),
            classes_part(dataset.object_classes),
            *(f"{name} {classes_part(_names(dataset, groups[name]))}" for name in groups),
            f"{options.templates} {templates_digest(prompts)}",
            f"COCO AP, {options.max_detections} detections an image, of {options.proposals} "
            f"proposals, score {options.score_min:g}, NMS {options.nms_iou:g}, letterbox"
            f", crops {options.crop_margin:g}"
            + (", classes looked for" if annotated.objects.absent is not None else ""),
            transform=detector.transform,
            bootstrap_samples=options.bootstrap_samples,
        ),
    }
    for name, numbers in groups.items():
        result[name]["boxes_seen"] = num_seen(dataset, numbers, detector.boxes_seen)
    write_checked_json(paths.metrics / "detection.json", {dataset.name: result})
    _write_found(paths, dataset, annotated, matches, fingerprint)
    logger.info(
        "AP50: %s", ", ".join(f"{name} {_shown(result[name].get('ap50'))}" for name in groups)
    )


def _metrics(
    annotated: Annotated,
    run: DetectorRun,
    matches: Matches,
    groups: dict[str, list[int]],
    params: Params,
) -> dict[str, Any]:
    """The metrics of each group."""
    options, objects = params.detection, annotated.objects
    curves = average_precision(objects, run.found, len(groups[ALL]), options.max_detections)
    precisions = precision_draws(matches, groups[ALL], EVERY_IOU, options.bootstrap_samples)
    return {
        name: precision_of(
            numbers,
            curves,
            matches,
            precisions,
            run.proposals,
            objects,
            options.bootstrap_samples,
        )
        for name, numbers in groups.items()
    }


def _names(dataset: Dataset, numbers: list[int]) -> list[str]:
    return [dataset.object_classes[number] for number in numbers]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _write_found(
    paths: Layout, dataset: Dataset, annotated: Annotated, matches: Matches, fingerprint: str
) -> None:
    """Writes the detections that count, and the objects, with their matches at an overlap of 0.5;
    both can be evaluated again.
    """
    objects, found = annotated.objects, matches.found
    hit = np.zeros(len(objects), bool)
    hit[annotated.plain] = matches.hit[0]
    write_arrays(
        _arrays_path(paths),
        fingerprint=fingerprint,
        names=dataset.object_classes,
        keys=annotated.keys,
        held_out=np.isin(dataset.object_classes, dataset.held_out_objects),
        object_images=objects.images,
        object_boxes=objects.boxes,
        object_classes=objects.classes,
        object_crowd=objects.crowd,
        object_found=hit,
        images=found.images,
        boxes=found.boxes.astype(np.float32),
        classes=found.classes,
        scores=found.scores.astype(np.float32),
        right=matches.right[0],
        ignored=matches.ignored[0],
    )


def _arrays_path(paths: Layout) -> Path:
    return paths.evaluation / "detection" / "found.npz"


def _write_absent(paths: Layout, dataset: str, reason: str) -> None:
    """The metrics file with the reason, and a folder without detections, as DVC expects one."""
    write_absent(paths.metrics / "detection.json", dataset, "detection", reason)
    write_checked_json(_arrays_path(paths).with_suffix(".json"), {})
