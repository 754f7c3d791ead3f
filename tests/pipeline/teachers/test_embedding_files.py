"""Files of embeddings that are damaged or do not fit together are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.params import Params
from pipeline.teachers.embedding_files import numbered_files, read_embeddings
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.teachers import DIM, of_layout, of_rows


def refused(make_params: Callable[..., Params], folder: Path, teacher: dict[str, Any]) -> None:
    write_teacher(make_params(teacher=teacher).teacher, folder, folder / "teacher")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "1 of 8"), (np.nan, "row 5"), (np.inf, "row 5")],
)
def test_embeddings_that_point_nowhere_are_counted_and_named(
    value: float, words: str, make_params: Any, tmp_path: Path, complains: Any
) -> None:
    rows = np.ones((8, DIM), np.float32)
    rows[5] = value
    np.save(tmp_path / "images.npy", rows)
    with complains("images, part 0", words, "the first in row 5"):
        refused(make_params, tmp_path, of_rows(tmp_path, images="images.npy"))
    assert not (tmp_path / "teacher").exists()


def test_fewer_embeddings_than_keys_are_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "img_emb_10.npy"
    np.save(path, np.load(path)[:-2])
    with complains("metadata_10.parquet: 7 rows for 5"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_one_key_with_two_different_embeddings_is_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    path = retrieval_layout / "img_emb_0.npy"
    rows = np.load(path)
    rows[1] = -rows[0]
    np.save(path, rows)
    with complains("images: rows 0 and 1"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_parts_that_do_not_fit_together_are_refused(
    make_params: Any, retrieval_layout: Path, complains: Any
) -> None:
    (retrieval_layout / "metadata_3.parquet").unlink()
    with complains("img_emb_3.npy", "metadata"):
        refused(make_params, retrieval_layout, of_layout(retrieval_layout))


def test_a_file_that_is_no_array_of_embeddings_is_refused(tmp_path: Path, complains: Any) -> None:
    np.save(tmp_path / "whole.npy", np.ones((3, 4), np.int64))
    with complains("whole.npy", "int64 [3, 4]"):
        read_embeddings(tmp_path / "whole.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with complains("objects.npy"):
        read_embeddings(tmp_path / "objects.npy")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with complains("module.pt"):
        read_embeddings(tmp_path / "module.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"no header")
    with complains("damaged.safetensors"):
        read_embeddings(tmp_path / "damaged.safetensors")
    with complains(".npy, .safetensors, .pt"):
        read_embeddings(tmp_path / "embeddings.bin")
    with complains("absent_*.npy", "teacher.embeddings"):
        numbered_files(tmp_path, "absent_*.npy", "teacher.embeddings")
