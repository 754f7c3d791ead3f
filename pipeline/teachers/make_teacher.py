"""Stage `teacher`: loads or trains a frozen teacher, and writes it with its identity."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError
from kdeov.teachers.base import TowerTeacher
from kdeov.teachers.clip import ClipTeacher
from kdeov.teachers.open_clip import OpenClipTeacher
from kdeov.weights.clip import load_clip_state_dict
from kdeov.weights.state_dict import write_tensors
from pipeline.artifacts.identity import write_teacher_identity
from pipeline.artifacts.shard_folder import ShardFolder
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.teacher_params import (
    ClipParams,
    EmbeddingsParams,
    OpenClipParams,
    TeacherParams,
    TeacherSection,
    TinyTeacherParams,
)
from pipeline.storage.files import writing_folder
from pipeline.teachers.load import WEIGHTS
from pipeline.teachers.make_precomputed import make_precomputed
from pipeline.teachers.tiny import train_tiny_teacher

logger = logging.getLogger(__name__)


def make_teacher(params: Params, paths: Layout) -> None:
    """Writes the teacher of a checkout (see `write_teacher`)."""
    write_teacher(params.teacher, paths.images, paths.teacher, params.data.storage)


def write_teacher(
    params: TeacherParams, images: Path, out: Path, storage: str | None = None
) -> None:
    """Writes the teacher's weights, or its embeddings, and `identity.json`.

    Args:
        params: Section `teacher`.
        images: Output of `prepare`; the tiny teacher is trained on it.
        out: Folder to write.
        storage: Storage of the shards of `images` (see `ShardFolder`).

    Raises:
        ConfigError: `teacher.sha256` is another one.
        KdeovError: Weights or embeddings cannot be read or downloaded.
    """
    with writing_folder(out) as folder:
        identity = _write(params.options, params.path, ShardFolder(images, storage), folder)
        sha256 = identity["weights_sha256"]
        logger.info("teacher %s: sha256 of its tensors is %s", identity["name"], sha256)
        if params.sha256 not in (None, sha256):
            raise ConfigError(
                f"{identity['name']}: the sha256 of its tensors is {sha256}, teacher.sha256 is "
                f"{params.sha256}; get the right weights or correct the params"
            )


def _write(
    options: TeacherSection, path: Path, images: ShardFolder, folder: Path
) -> dict[str, Any]:
    """Writes the teacher's files; returns its identity."""
    if isinstance(options, EmbeddingsParams):
        return make_precomputed(options, path, folder)
    if isinstance(options, OpenClipParams):
        tower_teacher = OpenClipTeacher.load(options.architecture, options.pretrained)
        tower_teacher.save(folder)
        return _write_identity(tower_teacher, folder)
    if isinstance(options, ClipParams):
        name, state = options.model, load_clip_state_dict(options.model)
    elif isinstance(options, TinyTeacherParams):
        name, state = "tiny", train_tiny_teacher(images, options)
    else:
        raise TypeError(f"no teacher is made of {type(options).__name__}")
    teacher = ClipTeacher(state, Path(name).name if Path(name).is_file() else name)
    write_tensors(folder / WEIGHTS, state)
    return _write_identity(teacher, folder)


def _write_identity(teacher: TowerTeacher, folder: Path) -> dict[str, Any]:
    identity = teacher.identity().to_dict()
    write_teacher_identity(folder, identity)
    return identity
