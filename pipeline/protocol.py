"""What a number was measured with, as one line and a short id: numbers compare where ids agree."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kdeov.transform import ImageTransform
from pipeline.files import digest

logger = logging.getLogger(__name__)


def protocol(task: str, *parts: str, transform: ImageTransform, resamples: int) -> dict[str, str]:
    """The protocol of an evaluation; it is logged.

    Args:
        task: Such as `zero-shot`.
        parts: What belongs to the task: classes, prompts, rules.
        transform: How the student sees pictures.
        resamples: Of the bootstrap.

    Returns:
        `protocol`, the line, and `protocol_id`, eight hexadecimal digits of it.
    """
    shown = f"{transform.size} px {transform.interpolation} {transform.crop}"
    line = "/".join([task, *parts, shown, f"{resamples} resamples"])
    identity = digest(line)[:8]
    logger.info("protocol %s: %s", identity, line)
    return {"protocol": line, "protocol_id": identity}


def classes_part(classes: Sequence[str]) -> str:
    """Number and digest of class names, in order."""
    return f"{len(classes)} classes {digest(list(classes))[:8]}"
