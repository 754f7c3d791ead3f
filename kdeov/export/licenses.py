"""The licenses that an export states: what is known, and what is not."""

from __future__ import annotations

from kdeov.models.timm_trunk import PREFIX
from kdeov.weights.clip import import_clip

UNKNOWN = "not recorded"


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
