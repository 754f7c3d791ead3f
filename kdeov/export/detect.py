"""`detect.onnx`: from the pixels of one letterboxed image to proposals, and their scores for any
classes.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov.detection.boxes import grow
from kdeov.detection.detector import Detector
from kdeov.detection.scores import TINY
from kdeov.errors import ConfigError
from kdeov.export.graphs import ImageGraph
from kdeov.export.images import GOLDEN_CLASSES, GOLDEN_SEED, smooth_pixels, unit_rows
from kdeov.export.onnx import Session, to_onnx
from kdeov.export.parity import Arrays, Parity, require_parity
from kdeov.export.tower import fold_batch_norm
from kdeov.runtime.card import DETECT, DetectionCard
from kdeov.runtime.golden import matching_rows

TOP = 300  # proposals of an image, where it has as many locations
NEAR = 1e-5  # of objectness: which of several so near ones is the last proposal depends on rounding


class DetectGraph(ImageGraph):
    """From the pixels of one image and class embeddings to proposals and scores.

    Args:
        detector: It is copied; in evaluation mode, on the CPU, in float32.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector.student, detector.transform)
        self.head = copy.deepcopy(detector.head).requires_grad_(False)
        self.strides = detector.student.backbone.strides
        self.params, self.margin = detector.params, detector.region_margin
        self.side = float(detector.image_size)
        pixels = torch.zeros(1, 3, detector.image_size, detector.image_size, dtype=torch.uint8)
        features = self.features(pixels)
        fold_batch_norm(self.head, features)
        locations = self.head(features)[1].shape[1]
        self.count, self.is_whole = min(TOP, locations), locations <= TOP

    def forward(  # type: ignore[override]
        self, pixels: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Proposes and scores.

        Args:
            pixels: uint8 [1, 3, S, S], letterboxed.
            classes: [K, D], of any length.

        Returns:
            Boxes [P, 4], left, top, right, bottom in pixels of the input, inside it, by descending
            objectness; the objectness [P]; unit embeddings of the regions [P, D]; scores [P, K],
            each of a box and a class alone.
        """
        features = self.features(pixels)
        boxes, logits = self.head(features)
        values, places = logits[0].topk(self.count)
        boxes = boxes[0].clamp(0.0, self.side).index_select(0, places)
        around = grow(boxes, self.margin).clamp(0.0, self.side)
        regions = self.projection.regions(features, around[None], self.strides)[0]
        embeddings = F.normalize(regions, dim=-1)
        cosines = embeddings @ F.normalize(classes, dim=-1).T
        objects, params = _log_sigmoid(values), self.params
        likely = _log_sigmoid(params.scale * cosines + params.bias)
        shares = (1 - params.beta) * objects.clamp(min=math.log(TINY))[:, None]
        return boxes, objects.exp(), embeddings, (shares + params.beta * likely).exp()


def _log_sigmoid(logits: Tensor) -> Tensor:
    """As PyTorch has it. ONNX Runtime's sigmoid is that of -18 for all lower logits, and scores are
    powers of it.
    """
    return -F.softplus(-logits)


class DetectReference:
    """PyTorch's own proposals and scores, by the names that they have in the file.

    Args:
        detector: On the CPU, in float32 and evaluation mode.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    @torch.inference_mode()
    def __call__(self, inputs: Arrays) -> Arrays:
        """All outputs of `DetectGraph` for `pixels` and `classes` of unit length."""
        detector = self.detector
        normalized = detector.transform.normalize(torch.from_numpy(inputs["pixels"]))
        proposals = detector.propose(normalized, TOP)
        scores = detector.scores(proposals, torch.from_numpy(inputs["classes"]))
        outputs = {**proposals._asdict(), "scores": scores}
        return {name: values[0].numpy() for name, values in outputs.items()}

    def inputs(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """A drawn image and `count` drawn classes."""
        side = self.detector.image_size
        return {
            "pixels": smooth_pixels(1, side, side, seed),
            "classes": unit_rows(count, self.detector.student.embed_dim, seed),
        }


def write_detect(
    folder: Path, detector: Detector
) -> tuple[DetectionCard, Parity, dict[str, np.ndarray]]:
    """Writes `detect.onnx` and compares it with PyTorch.

    Args:
        folder: It exists.
        detector: On the CPU, in float32 and evaluation mode.

    Returns:
        Its part of the card; its parity; its arrays of `golden.npz`, whose names begin with
        `detect_`.

    Raises:
        ConfigError: The size of images is no multiple of the last stride.
        DataError: The network cannot be exported, or the file differs from PyTorch.
    """
    side, stride = detector.image_size, detector.student.backbone.strides[-1]
    if side % stride:
        raise ConfigError(
            f"{DETECT}: images of {side} pixels are no multiple of the stride {stride}; train "
            "the box head with another image_size"
        )
    graph, reference = DetectGraph(detector), DetectReference(detector)
    model = to_onnx(
        graph,
        {name: torch.from_numpy(x) for name, x in reference.inputs(3, seed=2).items()},
        ["boxes", "objectness", "embeddings", "scores"],
        [{}, {0: torch.export.Dim("k", min=1)}],
        DETECT,
    )
    (folder / DETECT).write_bytes(model)
    session = Session(model)

    def expected(arrays: Arrays) -> Arrays:
        return _certain(reference(arrays), graph.is_whole)

    def found(arrays: Arrays) -> Arrays:
        outputs, wanted = session(arrays), expected(arrays)
        names = ("boxes", "objectness")
        rows = matching_rows(*(values[n] for values in (outputs, wanted) for n in names))
        return {name: values[rows] for name, values in outputs.items()}

    probes = [reference.inputs(1, seed=0), reference.inputs(5, seed=1)]
    parity = require_parity(DETECT, found, expected, probes)
    inputs = reference.inputs(GOLDEN_CLASSES, GOLDEN_SEED)
    golden = {"pixels": inputs["pixels"], **reference(inputs)}
    params = detector.params
    card = DetectionCard(
        image_size=side,
        scale=params.scale,
        bias=params.bias,
        beta=params.beta,
        boxes_seen=tuple(detector.boxes_seen),
    )
    return card, parity, {f"detect_{name}": values for name, values in golden.items()}


def _certain(outputs: Arrays, is_whole: bool) -> Arrays:
    """The proposals that are not chosen by rounding.

    Args:
        outputs: All that PyTorch chose.
        is_whole: Whether every location is one of them.
    """
    objectness = outputs["objectness"]
    floor = min(objectness[-1] + NEAR, objectness[0])
    return outputs if is_whole else {n: x[objectness >= floor] for n, x in outputs.items()}
