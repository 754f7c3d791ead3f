"""One small export for all tests of the runtime, and copies of it that differ in one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from kdeov.models.model import KDEOVModel
from kdeov.runtime.card import (
    GOLDEN,
    IMAGE,
    INT8,
    TABLE_EMBEDDINGS,
    TABLE_TEXTS,
    TextCard,
)
from kdeov.runtime.session import Session
from tests.helpers.exported import small_model, write_export
from tests.kdeov.runtime.copies import golden_arrays, npy, npz, write_copy

Altered = Callable[..., Path]


class Exported(NamedTuple):
    """An export and the model that it was made from."""

    folder: Path
    model: KDEOVModel


@pytest.fixture(scope="session")
def tower(tmp_path_factory) -> Exported:
    """An export with a text tower and a box head; read it, change a copy."""
    folder = tmp_path_factory.mktemp("tower") / "export"
    return Exported(folder, write_export(folder, boxes=True))


@pytest.fixture(scope="session")
def table(tower, tmp_path_factory) -> Exported:
    """The same student with a table of texts."""
    encoder = small_model("table").text_encoder
    embeddings = encoder.embeddings / encoder.embeddings.norm(dim=-1, keepdim=True)
    folder = write_copy(
        tower.folder,
        tmp_path_factory.mktemp("table") / "export",
        {
            TABLE_TEXTS: json.dumps(encoder.texts).encode(),
            TABLE_EMBEDDINGS: npy(embeddings.numpy()),
        },
        text=TextCard("table", "0" * 64, 100.0),
    )
    parts = tower.model.student, encoder, tower.model.transform, "small"
    return Exported(folder, KDEOVModel.from_parts(*parts).eval())


@pytest.fixture(scope="session")
def int8(tower, tmp_path_factory) -> Path:
    """An export with a file for INT8, whose weights are rounded to 8 bits."""
    rounded = onnx.load(tower.folder / IMAGE)
    for tensor in rounded.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            step = np.abs(values).max() / 127
            values = (np.round(values / step) * step).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path_factory.mktemp("int8") / INT8
    onnx.save(rounded, path)
    golden = golden_arrays(tower.folder)
    (golden["int8_embedding"],) = Session(path, ["embedding"])(pixels=golden["pixels"])
    files = {INT8: path.read_bytes(), GOLDEN: npz(golden)}
    return write_copy(tower.folder, path.parent / "export", files)


@pytest.fixture
def altered(tmp_path) -> Altered:
    """`altered(folder, {NAME: bytes}, text=...)`: a valid copy with other files and fields."""

    def alter(folder: Path, files: dict[str, bytes | None] | None = None, **fields: object) -> Path:
        return write_copy(folder, tmp_path / "altered", files or {}, **fields)

    return alter
