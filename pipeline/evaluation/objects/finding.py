"""The detector on all images of a split: detections, proposals, and the regions of true boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdeov.detection.boxes import grow
from kdeov.detection.detector import Detector, Proposals
from kdeov.detection.letterbox import Letterbox
from kdeov.detection.nms import Detections, class_wise_nms
from kdeov.evaluation.detection import Found
from pipeline.config.stage_params import DetectionParams
from pipeline.console import progress
from pipeline.evaluation.objects.annotated import Annotated

BATCH_SIZE = 16
CLASS_BLOCK = 256  # classes whose scores are in memory at a time
MAX_PROPOSALS = 100  # of an image, for class-agnostic recall

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes [n, 4], scores [n], classes [n]


@dataclass(frozen=True)
class DetectorRun:
    """The detector's output for all images.

    Attributes:
        found: Detections of all classes.
        proposals: Boxes of any object, by objectness, as boxes of class 0.
        regions: [G, D] unit embeddings of the true boxes that are no crowds.
    """

    found: Found
    proposals: Found
    regions: Tensor


@torch.no_grad()
def run_detector(
    detector: Detector,
    images: Iterable[Image.Image],
    annotated: Annotated,
    classes: Tensor,
    options: DetectionParams,
) -> DetectorRun:
    """Runs the detector on each image once.

    Args:
        detector: The detector.
        images: The images, in the order of `annotated`.
        annotated: Their objects.
        classes: [K, D], unit embeddings of the object classes.
        options: The section `detection`.
    """
    first = next(detector.parameters())
    classes = classes.to(first)
    true_boxes = _by_image(annotated)
    found: list[Arrays] = []
    proposed: list[Arrays] = []
    regions: list[Tensor] = []
    with progress("detect", annotated.objects.num_images) as bar:
        pairs = zip(images, true_boxes, strict=True)
        while batch := list(islice(pairs, BATCH_SIZE)):
            fits = [Letterbox.fit(image.size, detector.image_size) for image, _ in batch]
            squares = [
                torch.from_numpy(fit.pixels(image))
                for fit, (image, _) in zip(fits, batch, strict=True)
            ]
            pixels = detector.transform.normalize(torch.stack(squares).to(first.device))
            proposals = detector.propose(pixels.to(first.dtype), options.proposals)
            boxes = [fit.to_square(own) for fit, (_, own) in zip(fits, batch, strict=True)]
            regions += _regions(detector, pixels.to(first.dtype), boxes)
            for number, fit in enumerate(fits):
                single = _inside(Proposals(*(part[number : number + 1] for part in proposals)), fit)
                found.append(_arrays(detect(detector, single, classes, options), fit))
                agnostic = class_wise_nms(
                    single.boxes[0], single.objectness[0][:, None], options.nms_iou, 0.0,
                    MAX_PROPOSALS,
                )  # fmt: skip
                proposed.append(_arrays(agnostic, fit))
            bar.update(len(batch))
    empty = classes.new_empty(0, classes.shape[1])
    return DetectorRun(Found.of(found), Found.of(proposed), torch.cat([empty, *regions]).cpu())


def detect(
    detector: Detector, proposals: Proposals, classes: Tensor, options: DetectionParams
) -> Detections:
    """The detections of one image among any number of classes, a block of them at a time; equal
    to those of all classes at once, as no score depends on another class.

    Args:
        detector: The detector.
        proposals: Of one image.
        classes: [K, D], unit embeddings.
        options: The section `detection`.
    """
    limits = (options.nms_iou, options.score_min, options.max_detections)
    parts = []
    for first, block in zip(
        range(0, len(classes), CLASS_BLOCK), classes.split(CLASS_BLOCK), strict=True
    ):
        scores = detector.scores(proposals, block)[0]
        part = class_wise_nms(proposals.boxes[0], scores, *limits)
        parts.append(part._replace(classes=part.classes + first))
    boxes, scores, numbers = (torch.cat(values) for values in zip(*parts, strict=True))
    order = scores.sort(descending=True, stable=True).indices[: options.max_detections]
    return Detections(boxes[order], scores[order], numbers[order])


def _by_image(annotated: Annotated) -> Iterator[np.ndarray]:
    """The true boxes [n, 4] of each image that are no crowds."""
    objects = annotated.objects.take(annotated.plain)
    starts = np.searchsorted(objects.images, np.arange(objects.num_images + 1))
    for start, stop in pairwise(starts):
        yield objects.boxes[start:stop]


def _regions(detector: Detector, pixels: Tensor, boxes: list[np.ndarray]) -> list[Tensor]:
    """Unit embeddings [n, D] of the boxes of each image."""
    counts = [len(own) for own in boxes]
    padded = pixels.new_zeros(len(boxes), max(1, *counts), 4)
    padded[..., 2:] = detector.image_size  # rows that no box fills are not read
    for row, own in zip(padded, boxes, strict=True):
        row[: len(own)] = torch.from_numpy(own).to(row)
    # with the context that the detector's own regions have
    grown = grow(padded, detector.region_margin).clamp(0, detector.image_size)
    embeddings = F.normalize(detector.student.encode_regions(pixels, grown), dim=-1)
    return [rows[:count] for rows, count in zip(embeddings, counts, strict=True)]


def _inside(proposals: Proposals, fit: Letterbox) -> Proposals:
    """The proposals of one image that are not wholly in the margins of its letterbox."""
    boxes = fit.to_image(proposals.boxes[0].cpu().numpy())
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    rows = torch.from_numpy(kept).to(proposals.boxes.device)
    return Proposals(*(part[:, rows] for part in proposals))


def _arrays(found: Detections, fit: Letterbox) -> Arrays:
    boxes = fit.to_image(found.boxes.cpu().numpy())
    return boxes, found.scores.cpu().numpy(), found.classes.cpu().numpy()
