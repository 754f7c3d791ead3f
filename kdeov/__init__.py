"""KDEOV: CLIP distilled into a YOLO backbone, with a frozen text tower as open vocabulary.

The public names are imported when they are first used, so that a part that needs no torch does not
wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdeov.backbone import LightweightVisualBackbone
    from kdeov.errors import KdeovError
    from kdeov.fusion import CrossModalFusionModule
    from kdeov.losses import CrossModalAlignmentLoss, DistillationLoss, FeatureAlignmentLoss
    from kdeov.model import KDEOVModel
    from kdeov.open_clip_teacher import OpenClipTeacher
    from kdeov.projection import ProjectionNetwork
    from kdeov.teacher import ClipTeacher
    from kdeov.text import FrozenCLIPTextEncoder
    from kdeov.training import train_feature_alignment

__version__ = "0.1.0"

_HOMES = {
    "ClipTeacher": "teacher",
    "CrossModalAlignmentLoss": "losses",
    "CrossModalFusionModule": "fusion",
    "DistillationLoss": "losses",
    "FeatureAlignmentLoss": "losses",
    "FrozenCLIPTextEncoder": "text",
    "KDEOVModel": "model",
    "KdeovError": "errors",
    "LightweightVisualBackbone": "backbone",
    "OpenClipTeacher": "open_clip_teacher",
    "ProjectionNetwork": "projection",
    "train_feature_alignment": "training",
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
    "OpenClipTeacher",
    "ProjectionNetwork",
    "train_feature_alignment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kdeov' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kdeov.{_HOMES[name]}"), name)
