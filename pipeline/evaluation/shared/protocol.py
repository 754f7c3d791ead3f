"""The protocol of an evaluation: one line and a short id. Numbers are comparable if ids agree."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kdeov.data.transform import ImageTransform
from pipeline.artifacts.dataset import Dataset
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.storage.files import digest

logger = logging.getLogger(__name__)


def protocol(
    task: str, *parts: str, transform: ImageTransform, bootstrap_samples: int
) -> dict[str, str]:
    """Builds and logs the protocol of an evaluation.

    Args:
        task: Name of the task, such as `zero-shot`.
        parts: Settings of the task: images, classes, prompts, rules.
        transform: The student's image transform.
        bootstrap_samples: Number of bootstrap samples behind each interval.

    Returns:
        `protocol`, the line, and `protocol_id`, the first 8 hexadecimal digits of its digest.
    """
    image_size = f"{transform.size} px {transform.interpolation} {transform.crop}"
    line = "/".join([task, *parts, image_size, f"{bootstrap_samples} bootstrap samples"])
    protocol_id = digest(line)[:8]
    logger.info("protocol %s: %s", protocol_id, line)
    return {"protocol": line, "protocol_id": protocol_id}


def images_part(dataset: Dataset, images: ShardFolder, num_captions: int | None = None) -> str:
    """The test images: data set, number of images, and a digest of their shards, which hold
    labels and captions too.

    Args:
        dataset: Description of the data set.
        images: Folder of the image shards of all splits.
        num_captions: Number of captions, for tasks that use them.

    Raises:
        KdeovError: The manifest of the test split is missing or damaged.
    """
    manifest = (images / "test").manifest()
    counts = f"{manifest.samples} test images"
    if num_captions is not None:
        counts += f" with {num_captions} captions"
    return f"{dataset.name} {counts} {digest([shard.sha256 for shard in manifest.shards])[:8]}"


def classes_part(classes: Sequence[str]) -> str:
    """Number of classes, and a digest of their names in order."""
    return f"{len(classes)} classes {digest(list(classes))[:8]}"
