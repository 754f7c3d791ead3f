"""A box head that nobody has trained, on a trained student."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kdeov.detection.detector import Detector
from kdeov.detection.head import BoxHead
from kdeov.detection.scores import ScoreParams
from pipeline.artifacts.dataset import Dataset
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.evaluation.shared.student import student_of


def save_untrained_head(
    params: Params, paths: Layout, boxes_seen: Iterable[str] | None = None
) -> None:
    """Writes `out/boxes` with a random head of the student's size; as seen it states the base
    classes, or those given.
    """
    student = student_of(paths, "cpu").student
    torch.manual_seed(0)
    head = BoxHead(student.backbone.channels, student.backbone.strides)
    seen = Dataset.read(paths.images).base_objects if boxes_seen is None else boxes_seen
    size = params.distill.image_size
    score = ScoreParams(bias=0.0)  # high enough for detections of any class
    Detector(student, head, score, size, seen).save(paths.boxes)
