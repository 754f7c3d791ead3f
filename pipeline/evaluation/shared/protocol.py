"""What a number was measured with, as one line and a short id: numbers compare where ids agree."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from kdeov.data.transform import ImageTransform
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shards import Manifest
from pipeline.storage.files import digest

logger = logging.getLogger(__name__)


def protocol(
    task: str, *parts: str, transform: ImageTransform, bootstrap_samples: int
) -> dict[str, str]:
    """The protocol of an evaluation; it is logged.

    Args:
        task: Such as `zero-shot`.
        parts: What belongs to the task: images, classes, prompts, rules.
        transform: How the student sees images.
        bootstrap_samples: Of the bootstrap.

    Returns:
        `protocol`, the line, and `protocol_id`, eight hexadecimal digits of it.
    """
    shown = f"{transform.size} px {transform.interpolation} {transform.crop}"
    line = "/".join([task, *parts, shown, f"{bootstrap_samples} bootstrap_samples"])
    identity = digest(line)[:8]
    logger.info("protocol %s: %s", identity, line)
    return {"protocol": line, "protocol_id": identity}


def images_part(dataset: Dataset, images: Path, captions: int | None = None) -> str:
    """The test images: data set, number, and digest of the shards that hold them with their
    labels and captions.

    Args:
        dataset: That they belong to.
        images: The folder of its splits.
        captions: Number of captions, where they are asked about.

    Raises:
        KdeovError: The manifest of the test split is missing or damaged.
    """
    manifest = Manifest.read(images / "test")
    counts = f"{manifest.samples} test images"
    if captions is not None:
        counts += f" with {captions} captions"
    return f"{dataset.name} {counts} {digest([shard.sha256 for shard in manifest.shards])[:8]}"


def classes_part(classes: Sequence[str]) -> str:
    """Number and digest of class names, in order."""
    return f"{len(classes)} classes {digest(list(classes))[:8]}"
