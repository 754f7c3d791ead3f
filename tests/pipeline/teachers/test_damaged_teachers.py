"""A teacher of embeddings with a damaged file is refused before anything is read from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.damage import flips
from tests.helpers.teachers import of_layout


@pytest.fixture
def folder(make_params: Any, retrieval_layout: Path, tmp_path: Path) -> Path:
    params = make_params(teacher=of_layout(retrieval_layout))
    write_teacher(params.teacher, tmp_path / "images", tmp_path / "teacher")
    return tmp_path / "teacher"


def test_each_file_of_a_teacher_of_embeddings_is_compared(folder: Path, complains: Any) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"images.npy", "images.index.npy", "captions.npy", "text_encoder.json"} <= names
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damaged in [b"", whole[: len(whole) // 2], *flips(whole, 30, seed=len(whole))]:
            path.write_bytes(damaged)
            with complains(folder, "dvc repro -f teacher"):
                load_teacher(folder)
        path.unlink()
        with complains(folder, "dvc repro"):
            load_teacher(folder)
        path.write_bytes(whole)
    assert load_teacher(folder).embed_dim
