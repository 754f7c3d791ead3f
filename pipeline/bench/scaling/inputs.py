"""Inputs of the scaling plan, each with its origin."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from kdeov.errors import ConfigError

Origin = Literal["chosen", "measured", "published", "assumed"]
BENCH = "`kdeov bench cluster`"
TIMM = "timm, `results/benchmark-{}.csv`"


def given(value: float, meaning: str, origin: Origin, source: str = "") -> Any:
    """A number with its meaning and unit, its origin, and the source."""
    return field(default=value, metadata={"meaning": meaning, "origin": origin, "source": source})


@dataclass(frozen=True)
class Inputs:
    """All inputs of the plan."""

    images: float = given(1e9, "images", "chosen")
    views: float = given(4, "views of an image", "chosen")
    captions: float = given(1, "captions of an image", "chosen")
    batch: float = given(65_536, "images a step, over all GPUs", "chosen")
    num_streams: float = given(8_192, "streams, over all GPUs", "chosen")
    buffer: float = given(4_194_304, "images in the shuffle buffer, over all GPUs", "chosen")
    checkpoint_every: float = given(500, "steps between checkpoints", "chosen")
    jpeg_bytes: float = given(
        26_000,
        "bytes of a JPEG of 256 px",
        "published",
        "img2dataset's README: 36 million weigh 936 GB",
    )
    overhead_bytes: float = given(
        1_791, "bytes of an image's caption and tar headers", "measured", BENCH
    )
    dim: float = given(512, "half floats of an embedding", "published", "CLIP ViT-B/32")
    sample_bytes: float = given(
        2_590, "bytes of an image in a teacher shard, beside its embeddings", "measured", BENCH
    )
    shard_bytes: float = given(99, "bytes of a shard in a manifest", "measured", BENCH)
    hash_bytes: float = given(8, "bytes of the hash by which near duplicates are found", "chosen")
    prepare_rate: float = given(3_300, "images/s that a core prepares", "measured", BENCH)
    teacher_rate: float = given(
        4_602,
        "views/s of ViT-B/32 on an RTX 3090",
        "published",
        TIMM.format("infer-amp-nchw-pt240-cu124-rtx3090"),
    )
    caption_cost: float = given(
        0.68,
        "views cost as much as a caption",
        "published",
        "open_clip, `docs/model_profile.csv`: 5.96 and 8.82 GFLOPs",
    )
    teacher_share: float = given(
        0.958, "of the bare teacher's rate when it embeds", "measured", "`kdeov bench data`"
    )
    student_rate: float = given(
        4_469,
        "images/s, training a CSP Darknet of three times YOLOv8n's work on an RTX 3090",
        "published",
        TIMM.format("train-amp-nhwc-pt112-cu113-rtx3090") + ", `cs3darknet_focus_s`",
    )
    loader_rate: float = given(760, "images/s that a core reads and renders", "measured", BENCH)
    parameters: float = given(
        2_694_736, "parameters that are trained, with fusion", "measured", BENCH
    )
    checkpoint_bytes: float = given(43_434_000, "bytes of a checkpoint", "measured", BENCH)
    rank_bytes: float = given(14_340, "bytes more of it for each GPU", "measured", BENCH)
    request_bytes: float = given(4_194_304, "bytes of a request to the storage", "chosen")
    cores: float = given(16, "cores that read for a GPU", "assumed")
    network: float = given(50, "Gbit/s of network a GPU", "assumed")
    upload: float = given(100, "MB/s of one stream to the storage", "assumed")
    core_price: float = given(0.04, "$ a core-hour, of machines without GPUs", "assumed")
    gpu_price: float = given(2.0, "$ a GPU-hour, with its cores", "assumed")
    storage_price: float = given(0.023, "$ a GB-month", "assumed")

    def changed(self, changes: Sequence[str]) -> Inputs:
        """Replaces some inputs.

        Args:
            changes: Each `name=number`.

        Raises:
            ConfigError: A name is no input, or a number is not above 0.
        """
        values: dict[str, float] = {}
        names = [item.name for item in fields(self)]
        for change in changes:
            name, _, text = change.partition("=")
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"inputs are {', '.join(names)}"
                raise ConfigError(f"--set {name}: no input of the plan; {hint}")
            try:
                values[name] = float(text)
            except ValueError:
                values[name] = 0
            if not 0 < values[name] < float("inf"):
                raise ConfigError(f"--set {change}: give a number above 0, as in {name}=1000")
        return replace(self, **values)
