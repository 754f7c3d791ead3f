"""Fits the score of a detector on the base classes of the val split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from kdeov.data.transform import ImageTransform
from kdeov.detection.boxes import grow, paired_iou
from kdeov.detection.detector import Detector
from kdeov.detection.fit import choose_beta, fit_logistic
from kdeov.detection.letterbox import Letterbox
from kdeov.detection.nms import class_wise_nms
from kdeov.detection.scores import ScoreParams, detection_scores
from kdeov.evaluation.detection import Found, Objects, average_precision
from kdeov.models.student import VisualStudent
from pipeline.boxes.samples import BoxSample, BoxShards
from pipeline.boxes.stream import BoxEvaluationStream
from pipeline.runtime.device import cpu_threads

MAX_IMAGES = 2000
RIGHT, NMS_IOU, SCORE_MIN, MAX_DETECTIONS = 0.5, 0.5, 1e-3, 100
BETAS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
MARGINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
TOP = 100  # boxes of an image that are compared with the classes


@dataclass(frozen=True)
class Candidates:
    """The proposals of an image, compared with the base classes.

    Attributes:
        sample: The image with its boxes.
        boxes: [P, 4], pixels of the image.
        objectness: [P].
        cosines: [P, K].
    """

    sample: BoxSample
    boxes: Tensor
    objectness: Tensor
    cosines: Tensor


@torch.no_grad()
def choose_margin(
    student: VisualStudent, shards: BoxShards, classes: Tensor, side: int
) -> tuple[float, float]:
    """The context around a box with which most base objects are named rightly, and their share.

    Args:
        student: In evaluation mode.
        shards: The val split.
        classes: [K, D], unit embeddings of the base classes.
        side: Of the letterboxed input, pixels.
    """
    transform, right, count = ImageTransform(size=side), torch.zeros(len(MARGINS)), 0
    for sample, fit, pixels in islice(BoxEvaluationStream(shards, side), MAX_IMAGES):
        if not len(sample.boxes):
            continue
        true = torch.from_numpy(fit.to_square(sample.boxes)).to(classes)
        boxes = torch.cat([grow(true, margin).clamp(0, side) for margin in MARGINS])
        inputs = transform.normalize(pixels.to(classes.device))[None]
        named = (student.encode_regions(inputs, boxes[None])[0] @ classes.T).argmax(1).cpu()
        hits = named.view(len(MARGINS), -1) == torch.from_numpy(sample.classes)
        right, count = right + hits.sum(1), count + len(true)
    best = int(right.argmax())
    return MARGINS[best], right[best].item() / max(count, 1)


@torch.no_grad()
def fit_scores(detector: Detector, shards: BoxShards, classes: Tensor) -> tuple[ScoreParams, float]:
    """a, b and beta, and the AP50 of base classes with them.

    Args:
        detector: In evaluation mode.
        shards: The val split.
        classes: [K, D], unit embeddings of the base classes.

    Raises:
        DataError: No proposal is on a box of a base class.
    """
    stream = islice(BoxEvaluationStream(shards, detector.image_size), MAX_IMAGES)
    found = [_candidates(detector, item, classes) for item in stream]
    matched = [_matched(item) for item in found]
    cosines, numbers = (torch.cat(part) for part in zip(*matched, strict=True))
    scale, bias = fit_scale(cosines, numbers)
    objects = objects_of([item.sample for item in found])
    best = choose_beta(scale, bias, lambda params: _ap50(objects, found, params), BETAS)
    return best, _ap50(objects, found, best)


def fit_scale(cosines: Tensor, classes: Tensor) -> tuple[float, float]:
    """a and b (see `fit_logistic`) to the last digit, which follows from the order of sums and so
    from the number of threads.
    """
    with cpu_threads(1):
        return fit_logistic(cosines, classes)


def _candidates(
    detector: Detector, item: tuple[BoxSample, Letterbox, Tensor], classes: Tensor
) -> Candidates:
    sample, fit, pixels = item
    device = classes.device
    inputs = detector.transform.normalize(pixels.to(device))[None]
    boxes, objectness, embeddings = (part[0].cpu() for part in detector.propose(inputs, TOP))
    mapped = torch.from_numpy(fit.to_image(boxes.numpy()))
    return Candidates(sample, mapped.float(), objectness, embeddings @ classes.cpu().T)


def _matched(item: Candidates) -> tuple[Tensor, Tensor]:
    """Cosines [R, K] and classes [R] of the best boxes that are on an object."""
    kept = class_wise_nms(item.boxes, item.objectness[:, None], NMS_IOU, 0.0, MAX_DETECTIONS)
    true = torch.from_numpy(item.sample.boxes)[~torch.from_numpy(item.sample.crowd)]
    classes = torch.from_numpy(item.sample.classes)[~torch.from_numpy(item.sample.crowd)]
    if not len(true) or not len(kept.boxes):
        return item.cosines[:0], classes[:0]
    overlap, nearest = paired_iou(kept.boxes[:, None], true[None]).max(1)
    places = (item.boxes[None] == kept.boxes[:, None]).all(-1).float().argmax(1)
    right = overlap >= RIGHT
    return item.cosines[places[right]], classes[nearest[right]]


def objects_of(samples: list[BoxSample]) -> Objects:
    """The boxes of images as the annotated objects of an evaluation."""
    counts = [len(sample.boxes) for sample in samples]
    return Objects(
        len(samples),
        np.repeat(np.arange(len(samples)), counts),
        np.concatenate([sample.boxes for sample in samples]).astype(float),
        np.concatenate([sample.classes for sample in samples]),
        np.concatenate([sample.crowd for sample in samples]),
    )


def _ap50(objects: Objects, found: list[Candidates], params: ScoreParams) -> float:
    images = []
    for item in found:
        scores = detection_scores(item.objectness, item.cosines, params)
        kept = class_wise_nms(item.boxes, scores, NMS_IOU, SCORE_MIN, MAX_DETECTIONS)
        images.append((kept.boxes.numpy(), kept.scores.numpy(), kept.classes.numpy()))
    count = found[0].cosines.shape[1]
    return average_precision(objects, Found.of(images), count).summary()["ap50"] or 0.0
