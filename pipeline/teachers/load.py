"""Loading the teacher that the stage `teacher` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, DataError
from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.clip import ClipTeacher
from kdeov.teachers.open_clip import OpenClipTeacher
from pipeline.artifacts.identity import (
    IDENTITY,
    PRECOMPUTED,
    read_teacher_identity,
    require_identity,
)
from pipeline.teachers.precomputed import PrecomputedTeacher

Teacher = TowerTeacher | PrecomputedTeacher
WEIGHTS = "model.safetensors"


def load_teacher(folder: Path, device: str = "cpu") -> Teacher:
    """Loads the teacher that `make_teacher` wrote.

    Raises:
        DataError: Weights, tokenizer or transform are not those of the teacher's identity.
    """
    identity = read_teacher_identity(folder)
    if identity["library"] == PRECOMPUTED:
        return PrecomputedTeacher(folder)
    teacher = _open_towers(folder, device, identity)
    if teacher.weights_sha256 != identity["weights_sha256"]:
        raise DataError(
            f"{folder}: its files are not those of {IDENTITY}; run `dvc repro -f teacher`"
        )
    require_identity(teacher.identity().to_dict(), identity, folder / IDENTITY)
    return teacher


def _open_towers(folder: Path, device: str, identity: dict[str, Any]) -> TowerTeacher:
    try:
        if identity["library"] == "open_clip":
            return OpenClipTeacher.open(folder, device)
        return ClipTeacher.load(folder / WEIGHTS, device, name=identity["name"])
    except DataError as error:  # of files from anywhere; these are a stage's
        raise DataError(f"{error} (run `dvc repro -f teacher`)") from error


def load_towers(folder: Path, device: str = "cpu") -> TowerTeacher:
    """Loads a teacher that has towers.

    Raises:
        ConfigError: The teacher has precomputed embeddings and no towers.
        DataError: As for `load_teacher`.
    """
    teacher = load_teacher(folder, device)
    if isinstance(teacher, PrecomputedTeacher):
        raise ConfigError(
            f"{folder}: this teacher has embeddings and no towers; choose another teacher.source"
        )
    return teacher
