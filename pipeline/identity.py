"""What a teacher cache was made from, and the comparison that names every difference."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from kdeov.views import ViewPlan
from pipeline.files import digest, sha256_file
from pipeline.params import EmbedParams

DTYPE = "float16"
# What vectors and their storage follow from, besides data and params. A reader with other code
# refuses the cache, and `embed` makes it again.
CODE = (
    "kdeov/open_clip_teacher.py", "kdeov/open_clip_text.py", "kdeov/open_clip_tokenizer.py",
    "kdeov/open_clip_towers.py", "kdeov/precision.py", "kdeov/teacher.py", "kdeov/text.py",
    "kdeov/transform.py", "kdeov/views.py", "pipeline/cache.py", "pipeline/embedder.py",
    "pipeline/precomputed.py", "pipeline/table_embedder.py", "pipeline/vector_table.py",
)  # fmt: skip


@cache
def embedding_code() -> str:
    """A digest of the code that embeds."""
    root = Path(__file__).resolve().parent.parent
    return digest({name: sha256_file(root / name) for name in CODE})[:16]


def view_plan(teacher: dict[str, Any], params: EmbedParams, split: str) -> ViewPlan:
    """Training pictures have all views; validation and test pictures have the plain one, or none
    where the teacher has no vectors of them.
    """
    count = params.views if split == "train" else 1
    if split in teacher.get("without", ()):
        count = 0
    return ViewPlan(count, params.seed, params.min_area, params.jitter, params.blur)


def cache_identity(teacher: dict[str, Any], params: EmbedParams, split: str) -> dict[str, Any]:
    """The identity of a split's teacher shards.

    Args:
        teacher: `to_dict()` of the teacher's identity.
        params: Views and precision.
        split: Of the data.
    """
    return {
        "teacher": teacher,
        "views": asdict(view_plan(teacher, params, split)),
        "precision": params.precision,
        "dtype": DTYPE,
        "normalised": True,
        "captions": teacher.get("captions", True) and split not in teacher.get("without", ()),
        "code": embedding_code(),
    }


def differences(wanted: Any, found: Any, name: str = "") -> list[str]:
    """Every leaf in which two nested mappings differ, as `name: found, wanted`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted(wanted.keys() | found.keys())
            for line in differences(
                wanted.get(key), found.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if wanted == found else [f"{name} is {found!r}, wanted {wanted!r}"]


def require_identity(
    wanted: dict[str, Any], found: dict[str, Any], where: str, made_by: str = "embed"
) -> None:
    """Refuses what was made from something else.

    Raises:
        KdeovError: They differ; names each difference.
    """
    lines = differences(wanted, found)
    if lines:
        raise KdeovError(
            f"{where}: made from something else ({'; '.join(lines)}); run `dvc repro {made_by}`"
        )
