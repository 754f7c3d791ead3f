"""A student as a folder of files that run without this project."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdeov.export.graphs import DenseGraph, ImageGraph
from kdeov.export.images import Reference, smooth_pixels, unit_rows, write_dense, write_image
from kdeov.export.onnx import require_packages
from kdeov.export.parity import Parity
from kdeov.export.text import write_text
from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import CARD, DENSE, GOLDEN, IMAGE, TEXT, Card, write_card
from kdeov.weights.folder import replacing_files, user_path


@dataclass(frozen=True)
class ExportInfo:
    """Facts about a student that its files do not hold.

    Attributes:
        name: For people; None takes the backbone's.
        fingerprint: Of the run that trained it.
        metrics: Figures of its evaluation.
        licenses: Of `data`, `teacher` and `backbone`.
    """

    name: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)


@torch.no_grad()
def export_model(
    model: KDEOVModel,
    folder: str | Path,
    calibration: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    about: ExportInfo | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Card:
    """Writes a student as files, each compared with PyTorch, and the card that describes them.

    Args:
        model: The student; it stays as it is.
        folder: An export that is in it already is replaced once the new one is complete.
        calibration: uint8 [N, 3, S, S], images for which INT8 is calibrated; None writes no INT8.
        classes: [K, D] embeddings of the classes by which INT8 is compared with float32; None
            compares nearest neighbors.
        about: Facts for the card.
        on_progress: Called with the name of each file before it is made.

    Returns:
        The card.

    Raises:
        ConfigError: A package is missing, or the text encoder is of a kind without files.
        DataError: A file differs from PyTorch by more than rounding.
        StorageError: The disk is full or the folder cannot be written; it is as before.
    """
    require_packages()
    about = about or ExportInfo()
    student, encoder = _plain(model.student), _plain(model.text_encoder)
    reference = Reference(student, model.transform)
    with replacing_files(user_path(folder)) as partial:
        parity: dict[str, Parity] = {}
        on_progress(IMAGE)
        graph = ImageGraph(student, model.transform)
        image, parity[IMAGE] = write_image(partial, graph, reference)
        on_progress(DENSE)
        parity[DENSE] = write_dense(partial, DenseGraph(student, model.transform), reference)
        on_progress(TEXT)
        text, text_parity, golden_texts = write_text(partial, encoder)
        if text_parity is not None:
            parity[TEXT] = text_parity
        golden = _golden(reference)
        np.savez(partial / GOLDEN, allow_pickle=False, **golden, **golden_texts)
        card = Card(
            name=about.name or student.backbone.backbone_type,
            backbone_type=student.backbone.backbone_type,
            embed_dim=student.embed_dim,
            stride=student.backbone.strides[-1],
            dense_stride=student.backbone.strides[0],
            transform=model.transform.to_dict(),
            text=text,
            fingerprint=about.fingerprint,
            parity={name: values.rounded for name, values in parity.items()},
            metrics=about.metrics,
            licenses=about.licenses,
        )
        files = sorted(path.name for path in partial.iterdir() if path.name != CARD)
        write_card(partial, card, files)
    return card


def _golden(reference: Reference) -> dict[str, np.ndarray]:
    """Inputs and PyTorch's outputs, with which a reader of the files checks its machine."""
    stride = reference.student.backbone.strides[-1]
    inputs = {
        "pixels": smooth_pixels(2, 2 * stride, 3 * stride, seed=1),
        "classes": unit_rows(3, reference.student.embed_dim, seed=1),
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
