"""A student as a folder of files that run without this project."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdeov.detection.detector import Detector
from kdeov.errors import ConfigError, DataError
from kdeov.export.backbone import TIMM_FILE, YOLO_FILE, write_backbone
from kdeov.export.detect import write_detect
from kdeov.export.graphs import DenseGraph, ImageGraph
from kdeov.export.images import (
    GOLDEN_CLASSES,
    GOLDEN_SEED,
    Reference,
    smooth_pixels,
    unit_rows,
    write_background,
    write_dense,
    write_image,
    write_program,
)
from kdeov.export.int8 import calibration_pixels, embed, write_int8
from kdeov.export.onnx import Session, require_packages
from kdeov.export.parity import Parity
from kdeov.export.text import write_text
from kdeov.models.model import KDEOVModel
from kdeov.models.timm_trunk import PREFIX
from kdeov.prompts import TEMPLATES
from kdeov.runtime.card import (
    BACKGROUND,
    BPE,
    CARD,
    DENSE,
    DETECT,
    GOLDEN,
    HF_TOKENIZER,
    IMAGE,
    INT8,
    PROGRAM,
    TABLE_EMBEDDINGS,
    TABLE_TEXTS,
    TEXT,
    Card,
    read_card,
    write_card,
)
from kdeov.weights.clip import import_clip
from kdeov.weights.folder import replacing_files, user_path

UNKNOWN = "not recorded"
OPTIONAL = {
    BACKGROUND, INT8, DETECT, TEXT, BPE, HF_TOKENIZER, TABLE_TEXTS, TABLE_EMBEDDINGS,
    YOLO_FILE, TIMM_FILE,
}  # fmt: skip
"""Files that not every export has."""
NAMES = {CARD, DENSE, IMAGE, PROGRAM, GOLDEN, *OPTIONAL}


@dataclass(frozen=True)
class ExportInfo:
    """Facts about a student that its files do not hold.

    Attributes:
        name: For people; None takes the backbone's.
        fingerprint: Of the run that trained it.
        metrics: Figures of its evaluation.
        licenses: Of `data`, `teacher` and `backbone`, where they are known.
        templates: Prompts of class names for readers that name none; the simple one by default.
    """

    name: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    templates: Sequence[str] = TEMPLATES["simple"]


@dataclass(frozen=True)
class ExportImages:
    """Images of the training data, as the student sees them, and the classes they show.

    Attributes:
        calibration: uint8 [N, 3, S, S], for which INT8 is calibrated; None writes no INT8.
        classes: [K, D] embeddings of the classes by which INT8 is compared with float32; None
            compares nearest neighbors.
        background: Batches uint8 [B, 3, S, S], whose embeddings the export keeps for searches.
    """

    calibration: np.ndarray | None = None
    classes: np.ndarray | None = None
    background: Iterable[np.ndarray] = ()


@torch.no_grad()
def export_model(
    model: KDEOVModel,
    folder: str | Path,
    images: ExportImages | None = None,
    about: ExportInfo | None = None,
    detector: Detector | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Card:
    """Writes a student as files, each compared with PyTorch, and the card that describes them.

    Args:
        model: The student; it stays as it is.
        folder: An export that is in it already is replaced once the new one is complete.
        images: By which INT8 is calibrated, and with which searches compare; None leaves both out.
        about: Facts for the card.
        detector: Box head of the same student; None writes no `detect.onnx`.
        on_progress: Called with the name of each file before it is made.

    Returns:
        The card.

    Raises:
        ConfigError: A package is missing, the calibration images are none, the text encoder is of a
            kind without files, or the box head of images that are no multiple of the stride.
        DataError: A file differs from PyTorch by more than rounding.
        StorageError: The disk is full or the folder cannot be written; it is as before.
    """
    require_packages()
    earlier = _earlier_files(user_path(folder))
    about, images = about or ExportInfo(), images or ExportImages()
    student, encoder = _plain(model.student), _plain(model.text_encoder)
    reference = Reference(student, model.transform)
    calibration = images.calibration
    if calibration is not None:
        calibration = calibration_pixels(calibration, student.backbone.strides[-1])
    with replacing_files(user_path(folder)) as partial:
        parity: dict[str, Parity] = {}
        on_progress(DENSE)
        graph = DenseGraph(student, model.transform)
        dense, parity[DENSE] = write_dense(partial, graph, reference)
        on_progress(IMAGE)
        image, parity[IMAGE] = write_image(partial, dense, reference)
        on_progress(PROGRAM)
        parity[PROGRAM] = write_program(partial, ImageGraph(student, model.transform), reference)
        on_progress(TEXT)
        text, text_parity, golden_texts = write_text(partial, encoder)
        if text_parity is not None:
            parity[TEXT] = text_parity
        golden, int8, detection = {**_golden(reference), **golden_texts}, {}, None
        if detector is not None:
            on_progress(DETECT)
            detection, parity[DETECT], arrays = write_detect(partial, _plain(detector))
            golden.update(arrays)
        if calibration is not None:
            on_progress(INT8)
            quantized = write_int8(partial, image, calibration, images.classes)
            golden["int8_embedding"] = embed(Session(quantized.model), golden["pixels"])
            int8 = quantized.card
        write_background(partial, image, images.background, reference.student.backbone.strides[-1])
        write_backbone(partial, student.backbone, model.transform)
        np.savez(partial / GOLDEN, allow_pickle=False, **golden)
        card = Card(
            name=about.name or student.backbone.backbone_type,
            backbone_type=student.backbone.backbone_type,
            embed_dim=student.embed_dim,
            stride=student.backbone.strides[-1],
            dense_stride=student.backbone.strides[0],
            transform=model.transform.to_dict(),
            text=replace(text, templates=tuple(about.templates)),
            fingerprint=about.fingerprint,
            parity={name: values.rounded for name, values in parity.items()},
            int8=int8,
            detection=detection,
            metrics=about.metrics,
            licenses={
                "data": UNKNOWN,
                "teacher": f"{model.clip_model_name}: license {UNKNOWN}",
                "backbone": backbone_license(student.backbone.backbone_type),
                **about.licenses,
            },
        )
        files = {path.name for path in partial.iterdir()}
        write_card(partial, card, files)
    for name in OPTIONAL & earlier - files:
        (user_path(folder) / name).unlink(missing_ok=True)
    return read_card(user_path(folder))


def _earlier_files(folder: Path) -> set[str]:
    """Names of the files of an earlier export, which may be replaced.

    Raises:
        ConfigError: The folder holds files of these names that are of no export.
    """
    try:
        return set(read_card(folder).files)
    except DataError as error:
        found = [name for name in sorted(NAMES) if (folder / name).exists()]
        if found:
            raise ConfigError(
                f"{folder} holds {found[0]} and no whole card of an export; give another folder, "
                "or remove it"
            ) from error
        return set()


def _golden(reference: Reference) -> dict[str, np.ndarray]:
    """Inputs and PyTorch's outputs, with which a reader of the files checks its machine."""
    stride = reference.student.backbone.strides[-1]
    inputs = {
        "pixels": smooth_pixels(2, 2 * stride, 3 * stride, GOLDEN_SEED),
        "classes": unit_rows(GOLDEN_CLASSES, reference.student.embed_dim, GOLDEN_SEED),
    }
    outputs = dict(reference.dense(inputs))
    del outputs["dense"]
    return {**inputs, **outputs}


def _plain(module: nn.Module) -> Any:
    """A module on the CPU, in float32 and evaluation mode; a copy where it is not."""
    tensors = [*module.parameters(), *module.buffers()]
    fits = all(t.device.type == "cpu" and t.dtype != torch.float16 for t in tensors)
    if fits and not any(part.training for part in module.modules()):
        return module
    return copy.deepcopy(module).cpu().float().eval()


def backbone_license(backbone_type: str, pretrained: bool | None = None) -> str:
    """The license of a backbone.

    Args:
        backbone_type: See `LightweightVisualBackbone`.
        pretrained: Whether training started from published weights; None where that is unknown.
    """
    if not backbone_type.startswith(PREFIX):
        return f"AGPL-3.0 (Ultralytics {backbone_type})"
    name = backbone_type.removeprefix(PREFIX)
    if pretrained is False:
        return f"Apache-2.0 (timm {name}, trained from random weights)"
    return f"Apache-2.0 (the code of timm {name}); pretrained weights have a license of their own"


def teacher_license(library: str, name: str) -> str:
    """The license of a teacher, by its library and name."""
    if library == "clip" and name in import_clip().available_models():
        return f"MIT (OpenAI CLIP {name})"
    return f"{library} {name}: the license of its weights is {UNKNOWN}"
