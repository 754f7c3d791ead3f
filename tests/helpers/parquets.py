"""Writes Parquet files as `datasets` exports them, and lists them as the source does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet as files

from pipeline.config.source_params import ParquetParams
from pipeline.prepare.readers.base import Source
from pipeline.prepare.sources.parquet import parquet
from tests.helpers.tars import JPEG

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def images(count: int, data: bytes = JPEG) -> pyarrow.Array:
    """A column of images as structs."""
    return pyarrow.array([{"bytes": data, "path": f"{n}.jpg"} for n in range(count)], STRUCT)


def export(
    path: Path, columns: dict[str, Any], names: Sequence[str] | None = None, group: int = 2
) -> Path:
    """A file with row groups of `group` rows; `names` are those of the ClassLabel `label`."""
    table = pyarrow.table(columns)
    if names is not None:
        feature = {"names": list(names), "_type": "ClassLabel"}
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(table, path, row_group_size=group)
    return path


def labelled(path: Path, labels: Sequence[int | None], names: Sequence[str]) -> Path:
    """A file of labelled images."""
    kind = pyarrow.int64()
    columns = {"image": images(len(labels)), "label": pyarrow.array(labels, kind)}
    return export(path, columns, names)


def options(**changes: Any) -> ParquetParams:
    values = {
        "image_column": "image", "caption_column": None, "label_column": "label",
        "templates": "plain", "val": 0.0, "test": 0.0,
    }  # fmt: skip
    return ParquetParams(**values | changes)


def listed(path: Path, **changes: Any) -> Source:
    return parquet(path, options(**changes), 0, 64)
