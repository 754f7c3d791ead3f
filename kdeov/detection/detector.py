"""The detector: a student, a box head and a score. Nothing in it depends on a list of classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdeov.data.images import to_rgb
from kdeov.data.transform import ImageTransform
from kdeov.detection.boxes import grow
from kdeov.detection.head import BoxHead
from kdeov.detection.letterbox import Letterbox
from kdeov.detection.nms import Detections, class_wise_nms
from kdeov.detection.pretrained import PretrainedHead
from kdeov.detection.scores import ScoreParams, detection_scores
from kdeov.errors import ConfigError, DataError, first_line
from kdeov.models.student import VisualStudent
from kdeov.weights.digests import read_description, write_description
from kdeov.weights.folder import replacing_files, user_path
from kdeov.weights.state_dict import state_dict_sha256, write_tensors

FORMAT = 1
CONFIG, BOXES = "config.json", "boxes.safetensors"
FIX = "run `dvc repro -f train_boxes`"
NONE, TRAINED, PRETRAINED = "none", "trained", "pretrained"


class Proposals(NamedTuple):
    """What may be an object, by descending objectness, whatever the classes are.

    Attributes:
        boxes: [B, P, 4], left, top, right, bottom in pixels of the network's input, inside it.
        objectness: [B, P], from 0 to 1.
        embeddings: [B, P, D] of the regions, unit length.
    """

    boxes: Tensor
    objectness: Tensor
    embeddings: Tensor


class Detector(nn.Module):
    """Finds objects of any classes that are given as embeddings.

    Args:
        student: Trunk and projection, which the box head shares and does not change.
        head: The box head.
        params: Of the score.
        image_size: Side of the letterboxed input, pixels.
        boxes_seen: Classes whose boxes trained the trunk, the neck or the head. None of them is
            novel to this detector.
        region_margin: Context around a box, as a share of its sides, that its embedding includes:
            teachers name an object more surely that touches no edge of its crop.
    """

    def __init__(
        self,
        student: VisualStudent,
        head: BoxHead | PretrainedHead,
        params: ScoreParams | None = None,
        image_size: int = 640,
        boxes_seen: Iterable[str] = (),
        region_margin: float = 0.0,
    ) -> None:
        super().__init__()
        if tuple(head.strides) != tuple(student.backbone.strides):
            raise ConfigError(
                f"the box head is for feature levels of strides {tuple(head.strides)}, the "
                f"student has {tuple(student.backbone.strides)}; {FIX}"
            )
        self.student, self.head = student, head
        self.params = params or ScoreParams()
        self.image_size, self.boxes_seen = image_size, list(boxes_seen)
        self.region_margin = region_margin
        self.transform = ImageTransform(size=image_size)

    def propose(self, pixels: Tensor, top: int = 300) -> Proposals:
        """Boxes with the embeddings of their regions, from one pass through the trunk.

        Args:
            pixels: [B, 3, H, W], normalized.
            top: Boxes of an image that go on, those of the highest objectness.
        """
        features = self.student.backbone(pixels)
        boxes, logits = self.head(features)
        height, width = pixels.shape[-2:]
        limits = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(min=0).minimum(limits)
        values, places = logits.topk(min(top, logits.shape[1]), dim=1)
        boxes = boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
        grown = grow(boxes, self.region_margin).clamp(min=0).minimum(limits)
        regions = self.student.projection.regions(features, grown, self.student.backbone.strides)
        return Proposals(boxes, values.sigmoid(), F.normalize(regions, dim=-1))

    @torch.no_grad()
    def detect(
        self,
        images: Iterable[Image.Image],
        classes: Tensor,
        score_min: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        top: int = 300,
    ) -> list[Detections]:
        """Finds objects of the given classes.

        Args:
            images: PIL images of any mode and size.
            classes: [K, D], unit embeddings of the classes.
            score_min: Lower scores are no detections.
            nms_iou: Overlap (IoU) above which the lower score of a class is dropped.
            max_detections: Most detections of an image.
            top: See `propose`.

        Returns:
            Detections of each image, in pixels of the (upright) image.

        Raises:
            ConfigError: Class embeddings of another width.
        """
        first = next(self.student.parameters())
        if classes.ndim != 2 or classes.shape[1] != self.student.embed_dim:
            raise ConfigError(
                f"embeddings of classes of shape {tuple(classes.shape)}; give "
                f"[K, {self.student.embed_dim}]"
            )
        found = []
        for image in images:
            upright = to_rgb(image)
            fit = Letterbox.fit(upright.size, self.image_size)
            square = torch.from_numpy(fit.pixels(upright))
            pixels: Tensor = self.transform.normalize(square)[None]
            proposals = self.propose(pixels.to(first), top)
            scores = self.scores(proposals, classes.to(first))[0]
            boxes = proposals.boxes[0]
            clipped = fit.to_image(boxes.cpu().numpy())
            inside = torch.from_numpy((clipped[:, 2:] > clipped[:, :2]).all(1))  # not in a margin
            kept = class_wise_nms(boxes[inside], scores[inside], nms_iou, score_min, max_detections)
            shown = torch.from_numpy(fit.to_image(kept.boxes.cpu().numpy()))
            found.append(kept._replace(boxes=shown.to(kept.boxes)))
        return found

    def scores(self, proposals: Proposals, classes: Tensor) -> Tensor:
        """The scores [B, P, K] of proposals for unit embeddings of classes [K, D]."""
        return detection_scores(proposals.objectness, proposals.embeddings @ classes.T, self.params)

    def config(self) -> dict[str, Any]:
        """The content of `config.json`, but for the digests."""
        head = self.head
        built = (
            {"name": head.name}
            if isinstance(head, PretrainedHead)
            else {"channels": head.channels, "strides": head.strides, "widths": head.widths}
        )
        return {
            "format": FORMAT,
            "kind": PRETRAINED if isinstance(head, PretrainedHead) else TRAINED,
            "head": built,
            "score": self.params.to_dict(),
            "image_size": self.image_size,
            "boxes_seen": self.boxes_seen,
            "region_margin": self.region_margin,
            "student": student_sha256(self.student),
        }

    def save(self, folder: str | Path) -> None:
        """Writes the head, without the student, as `boxes.safetensors`, and `config.json`. The
        folder is whole, or as it was before.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        with replacing_files(user_path(folder)) as partial:
            write_tensors(partial / BOXES, self.head.state_dict())
            write_description(partial / CONFIG, self.config(), [BOXES])

    @classmethod
    def load(cls, folder: str | Path, student: VisualStudent) -> Detector:
        """Reads the files of `save`; the detector is in evaluation mode, where the student is.

        Args:
            folder: Of `save`.
            student: That on whose features the head was trained.

        Raises:
            DataError: The folder is not a saved detector, or damaged; the data had no boxes; or
                the student is another one.
        """
        folder = user_path(folder)
        config = read_config(folder)
        if config["kind"] == NONE:
            raise DataError(
                f"{folder}: no box head, for the data have no boxes or train_boxes.kind is none; "
                "set it to trained for data with boxes"
            )
        if config["student"] != student_sha256(student):
            raise DataError(f"{folder}: the box head of another student; {FIX}")
        try:
            head = _build(config)
            head.load_state_dict(load_file(folder / BOXES))
            params = ScoreParams(**config["score"])
            detector = cls(
                student,
                head,
                params,
                config["image_size"],
                config["boxes_seen"],
                config["region_margin"],
            )
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{folder}: config and weights do not fit ({first_line(error)}); {FIX}"
            ) from error
        return detector.to(next(student.parameters()).device).eval()


def save_none(folder: str | Path) -> None:
    """Writes `config.json` of data without boxes: `kind` is none."""
    with replacing_files(user_path(folder)) as partial:
        write_description(partial / CONFIG, {"format": FORMAT, "kind": NONE}, [])


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of `Detector.save` or `save_none`; its files are as they were written.

    Raises:
        DataError: It is missing, damaged, edited or of another format.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder}: no box head (no {CONFIG}); run `dvc repro train_boxes`")
    config = read_description(folder / CONFIG, FIX)
    if config.get("format") != FORMAT:
        raise DataError(
            f"{folder / CONFIG}: format {config.get('format')}, expected {FORMAT}; {FIX}"
        )
    return config


def student_sha256(student: VisualStudent) -> str:
    """Digest of the weights that a box head and its embeddings depend on."""
    parts = {"backbone": student.backbone, "projection": student.projection}
    return state_dict_sha256(
        {f"{p}.{n}": value for p, m in parts.items() for n, value in m.state_dict().items()}
    )


def _build(config: dict[str, Any]) -> BoxHead | PretrainedHead:
    if config["kind"] == PRETRAINED:
        return PretrainedHead(config["head"]["name"])
    return BoxHead(**config["head"])
