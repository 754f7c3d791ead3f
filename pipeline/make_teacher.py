"""Stage `teacher`: gets a frozen teacher and writes it, with its identity, where the other stages
find it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from kdeov.clip_loading import load_clip_state_dict
from kdeov.errors import KdeovError
from kdeov.teacher import ClipTeacher
from kdeov.weights import state_dict_sha256, write_tensors
from pipeline.files import write_json, writing_folder
from pipeline.params import TeacherParams
from pipeline.teacher import IDENTITY, WEIGHTS
from pipeline.tiny_teacher import train_tiny_teacher

logger = logging.getLogger(__name__)


def make_teacher(params: TeacherParams, images: Path, out: Path) -> None:
    """Writes `model.safetensors` and `identity.json`.

    Args:
        params: `tiny`, a CLIP name or a weight file.
        images: What `prepare` wrote; `tiny` learns from it.
        out: The teacher's folder.

    Raises:
        KdeovError: The weights cannot be had, or are not those that `teacher.sha256` names.
    """
    if params.name == "tiny":
        state = train_tiny_teacher(images, params.tiny)
    else:
        state = load_clip_state_dict(params.name)
    found = state_dict_sha256(state)
    logger.info("teacher %s: sha256 of its tensors is %s", params.name, found)
    if params.sha256 not in (None, found):
        raise KdeovError(
            f"{params.name}: the sha256 of its tensors is {found}, teacher.sha256 is "
            f"{params.sha256}; "
            "get the right weights or correct the params"
        )
    named_file = Path(params.name).is_file()
    teacher = ClipTeacher(state, Path(params.name).name if named_file else params.name)
    with writing_folder(out) as folder:
        write_tensors(folder / WEIGHTS, state)
        write_json(folder / IDENTITY, teacher.identity().to_dict())
