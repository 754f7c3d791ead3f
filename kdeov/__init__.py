"""KDEOV: CLIP distilled into a YOLO backbone, with a frozen text tower as open vocabulary.

Public names are imported at first use, so that parts without torch import fast.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdeov.errors import KdeovError
    from kdeov.feature_alignment import train_feature_alignment
    from kdeov.models.backbone import LightweightVisualBackbone
    from kdeov.models.fusion import CrossModalFusionModule
    from kdeov.models.model import KDEOVModel
    from kdeov.models.projection import ProjectionNetwork
    from kdeov.runtime.model import Model
    from kdeov.teachers.clip import ClipTeacher
    from kdeov.teachers.open_clip import OpenClipTeacher
    from kdeov.text.clip import FrozenCLIPTextEncoder
    from kdeov.training.losses import (
        CrossModalAlignmentLoss,
        DistillationLoss,
        FeatureAlignmentLoss,
    )

# Read by onnxruntime when it is imported: no telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_MODULES = {
    "ClipTeacher": "teachers.clip",
    "CrossModalAlignmentLoss": "training.losses",
    "CrossModalFusionModule": "models.fusion",
    "DistillationLoss": "training.losses",
    "FeatureAlignmentLoss": "training.losses",
    "FrozenCLIPTextEncoder": "text.clip",
    "KDEOVModel": "models.model",
    "KdeovError": "errors",
    "LightweightVisualBackbone": "models.backbone",
    "Model": "runtime.model",
    "OpenClipTeacher": "teachers.open_clip",
    "ProjectionNetwork": "models.projection",
    "train_feature_alignment": "feature_alignment",
}

__all__ = [
    "ClipTeacher",
    "CrossModalAlignmentLoss",
    "CrossModalFusionModule",
    "DistillationLoss",
    "FeatureAlignmentLoss",
    "FrozenCLIPTextEncoder",
    "KDEOVModel",
    "KdeovError",
    "LightweightVisualBackbone",
    "Model",
    "OpenClipTeacher",
    "ProjectionNetwork",
    "train_feature_alignment",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kdeov' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kdeov.{_MODULES[name]}"), name)
