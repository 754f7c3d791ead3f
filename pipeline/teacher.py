"""The teacher that the stage `teacher` wrote: its weights and its identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from kdeov.teacher import ClipTeacher
from pipeline.files import read_json
from pipeline.identity import require_identity

WEIGHTS = "model.safetensors"
IDENTITY = "identity.json"


def read_teacher_identity(folder: Path) -> dict[str, Any]:
    """What the teacher's vectors depend on, without reading its weights."""
    return read_json(folder / IDENTITY, "teacher")


def load_teacher(folder: Path, device: str = "cpu") -> ClipTeacher:
    """The teacher that `make_teacher` wrote.

    Raises:
        KdeovError: Its weights, tokenizer or transform are not those of its identity.
    """
    identity = read_teacher_identity(folder)
    teacher = ClipTeacher.load(folder / WEIGHTS, device, name=identity["name"])
    if teacher.weights_sha256 != identity["weights_sha256"]:
        raise KdeovError(
            f"{folder / WEIGHTS}: not the weights of {IDENTITY}; run `dvc repro -f teacher`"
        )
    require_identity(
        teacher.identity().to_dict(), identity, str(folder / IDENTITY), made_by="-f teacher"
    )
    return teacher
