"""The identity of a teacher cache, and the comparison that names every difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdeov.data.region_views import RegionPlan
from kdeov.data.views import ViewPlan
from kdeov.errors import DataError
from pipeline.artifacts.dataset import Dataset
from pipeline.config.stage_params import EmbedParams
from pipeline.storage.checked import read_checked_json, write_checked_json

DTYPE = "float16"
PRECOMPUTED = "embeddings"
IDENTITY = "identity.json"
EMBEDDING_VERSION = 2
"""Version of the computation that turns images and captions into cached embeddings: raise it when a
change gives other bytes (`tests/pipeline/embedding/test_embedding_version.py` says when). It stands
in the identity of every cache, so that readers refuse older ones and `embed` makes them again."""


def read_teacher_identity(folder: Path) -> dict[str, Any]:
    """The identity of a teacher, without reading its weights.

    Raises:
        DataError: The file is missing, damaged or edited.
    """
    return read_checked_json(folder / IDENTITY, "teacher")


def write_teacher_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Writes `identity.json` beside the teacher's weights or embeddings."""
    write_checked_json(folder / IDENTITY, identity)


def view_plan(teacher: dict[str, Any], params: EmbedParams, split: str) -> ViewPlan:
    """Training images have all views; validation and test images have the plain one, or none
    where the teacher has no embeddings of them.
    """
    count = params.views if split == "train" else 1
    if split in teacher.get("splits_without_embeddings", ()):
        count = 0
    return ViewPlan(
        count, params.seed, params.crop_scale_min, params.color_jitter, params.blur_prob
    )


def region_plan(params: EmbedParams, split: str, classes: Sequence[str] = ()) -> RegionPlan:
    """Training images have regions to learn from, validation images regions to be measured with.

    Args:
        params: Regions, and the seed of the views.
        split: Of the data.
        classes: Names of the objects that may be shown (see `shown_classes`).
    """
    regions = params.regions
    count = regions.count if split in ("train", "val") else 0
    return RegionPlan(
        count,
        params.seed,
        regions.kind,
        regions.min_area,
        regions.max_area,
        regions.margin,
        tuple(classes),
    )


def shown_classes(params: EmbedParams, images: Path) -> list[str]:
    """Names of the annotated objects that regions may show; none where they show no objects, or
    where the data have none: all regions are random then.

    Args:
        params: The `embed` section.
        images: Output folder of `prepare`.
    """
    if not params.regions.count or params.regions.kind != "objects":
        return []
    return Dataset.read(images).base_objects


def cache_identity(
    teacher: dict[str, Any], params: EmbedParams, split: str, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """The identity of a split's teacher shards.

    Args:
        teacher: `to_dict()` of the teacher's identity.
        params: Views, regions and precision.
        split: Of the data.
        classes: Names of the objects that regions may show (see `shown_classes`).
    """
    regions = region_plan(params, split, classes)
    identity = {
        "teacher": teacher,
        "views": asdict(view_plan(teacher, params, split)),
        "precision": params.precision,
        "dtype": DTYPE,
        "normalised": True,
        "captions": teacher.get("captions", True)
        and split not in teacher.get("splits_without_embeddings", ()),
        "version": EMBEDDING_VERSION,
    }
    if params.decoder != "cpu":  # as with regions below
        identity["decoder"] = params.decoder
    if regions.count:  # caches without regions have the identity that they always had
        identity["regions"] = {**asdict(regions), "classes": list(regions.classes)}
    return identity


def differences(wanted: Any, found: Any, name: str = "") -> list[str]:
    """Every leaf in which two nested mappings differ, as `name is FOUND, wanted WANTED`. Another
    teacher, with weights and more of its own, is one difference.
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        lines = [
            line
            for key in sorted(wanted.keys() | found.keys())
            for line in differences(
                wanted.get(key), found.get(key), f"{name}.{key}" if name else key
            )
        ]
        if len(lines) > 1 and wanted.get("weights_sha256") != found.get("weights_sha256"):
            return [f"{name or 'teacher'} is {_teacher(found)}, wanted {_teacher(wanted)}"]
        return lines
    return [] if wanted == found else [f"{name} is {found!r}, wanted {wanted!r}"]


def _teacher(identity: dict[str, Any]) -> str:
    return f"{identity.get('name')!r} with weights {str(identity.get('weights_sha256'))[:8]}"


def require_identity(wanted: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    """Refuses a cache or teacher that was made from something else.

    Args:
        wanted: The identity that params ask for.
        found: The identity in the file.
        path: The file: a manifest of the cache, or the teacher's `identity.json`.

    Raises:
        DataError: They differ; names each difference.
    """
    lines = differences(wanted, found)
    if lines:
        stage = "-f teacher" if path.name == IDENTITY else "embed"
        raise DataError(
            f"{path}: made from something else ({'; '.join(lines)}); run `dvc repro {stage}`"
        )
