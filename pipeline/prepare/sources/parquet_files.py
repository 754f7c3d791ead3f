"""The footer and the labels of a Parquet file: all that listing reads of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdeov.errors import DataError
from pipeline.artifacts.texts import class_name
from pipeline.config.source_params import ParquetParams
from pipeline.console import printable
from pipeline.prepare.readers.parquet_rows import Columns, Root, open_parquet, parquet_version

MAX_GROUP_BYTES = 2 << 30  # a worker holds a row group
OPTION = "prepare.parquet"


@dataclass(frozen=True)
class ParquetFacts:
    """A Parquet file as it is listed.

    Attributes:
        file: Its path within the folder.
        version: Changes with its bytes (see `ImageFile.version`).
        ends: Number of the row after the last of each row group.
        columns: Names of the columns that are read.
        names: Class names by number, where labels are numbers.
        labels: For each row the number of its label among `spelled`, -1 where it has none; None
            where images have no classes.
        spelled: The labels that occur, as names of classes.
    """

    file: str
    version: str
    ends: np.ndarray
    columns: Columns
    names: tuple[str, ...] | None
    labels: np.ndarray | None
    spelled: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def classes_of(self, rows: np.ndarray) -> set[str]:
        """The classes of some rows; labels that name no class are left out."""
        if self.labels is None:
            return set()
        numbers = np.unique(self.labels[rows]).tolist()
        found = {self.spelled[n] for n in numbers if 0 <= n < len(self.spelled)}
        return {name for name in found if name}


def read_facts(root: Root, options: ParquetParams, file: str) -> ParquetFacts:
    """Reads the footer of a file, and its labels where images have classes.

    Args:
        root: The folder, or a bucket.
        options: Names of columns.
        file: Path of the file there.

    Raises:
        DataError: It is missing or damaged, or a column is missing or of another type.
    """
    import pyarrow

    where = str(root / file) if isinstance(root, Path) else root.where(file)
    try:
        version, opened = parquet_version(root, file), open_parquet(root, file)
        schema, metadata = opened.schema_arrow, opened.metadata
        columns = _columns(where, schema, options)
        names = _class_names(where, schema, options.label_column)
        sizes = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.total_byte_size > MAX_GROUP_BYTES:
                raise DataError(
                    f"{where}: row group {number} has {group.total_byte_size / 1e9:.1f} GB, which "
                    "a worker would hold; export row groups of a thousand rows"
                )
            sizes.append(group.num_rows)
        labels, spelled = None, names or ()
        if options.label_column is not None:
            column = opened.read([options.label_column]).column(0)
            if names is None:
                labels, spelled = _encoded(column)
            else:
                labels = column.cast("int64").fill_null(-1).to_numpy()
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file; check prepare.path") from error
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: no Parquet that can be read ({reason}); get it again") from error
    return ParquetFacts(file, version, np.cumsum(sizes, dtype=int), columns, names, labels, spelled)


def _encoded(column: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Texts as numbers, -1 for none, of the classes that they name."""
    encoded = column.combine_chunks().dictionary_encode()
    spelled = tuple(map(_class_of, encoded.dictionary.cast("binary").to_pylist()))
    return encoded.indices.fill_null(-1).to_numpy(), spelled


def _class_of(text: bytes | None) -> str:
    """The class that a label names; empty for none, and for one that is not UTF-8."""
    try:
        return class_name((text or b"").decode())
    except UnicodeDecodeError:
        return ""


def _columns(where: str, schema: Any, options: ParquetParams) -> Columns:
    import pyarrow.types as kinds

    def kind_of(option: str) -> Any:
        name = getattr(options, option)
        if schema.names.count(name) != 1:
            known = ", ".join(map(printable, schema.names)) or "none"
            raise DataError(
                f"{where}: no column {name!r}, or several; its columns are {known}; name one in "
                f"{OPTION}.{option}"
            )
        return schema.field(name).type

    def is_text(kind: Any) -> bool:
        if kinds.is_dictionary(kind):  # as categories of pandas are stored
            kind = kind.value_type
        return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)

    def is_bytes(kind: Any) -> bool:
        return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)

    def is_list(kind: Any) -> bool:
        return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)

    kind, image = kind_of("image_column"), options.image_column
    in_struct = kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not is_bytes(kind.field("bytes").type if in_struct else kind):
        raise DataError(
            f"{where}: column {image!r} holds {kind}; store the bytes of image files, alone or as "
            "`bytes` of a struct"
        )
    if options.caption_column is not None:
        kind = kind_of("caption_column")
        if not is_text(kind.value_type if is_list(kind) else kind):
            raise DataError(
                f"{where}: column {options.caption_column!r} holds {kind}; store texts, or lists "
                "of texts"
            )
    if options.label_column is not None:
        kind = kind_of("label_column")
        if not (is_text(kind) or kinds.is_integer(kind)):
            raise DataError(
                f"{where}: column {options.label_column!r} holds {kind}; store class names, or "
                "whole numbers of a ClassLabel"
            )
    stored = f"{image}.bytes" if in_struct else image
    return Columns(image, stored, options.caption_column, options.label_column)


def _class_names(where: str, schema: Any, label: str | None) -> tuple[str, ...] | None:
    """Names of the classes of whole numbers, from the metadata that `datasets` writes.

    Raises:
        DataError: Labels are numbers without names, or two classes have one name.
    """
    import pyarrow.types as kinds

    if label is None or not kinds.is_integer(schema.field(label).type):
        return None
    try:
        values = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        raw = values["info"]["features"][label]["names"]
        names = tuple(class_name(name) for name in raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{where}: column {label!r} holds numbers, and the file does not name their classes; "
            "export it with `datasets` as a ClassLabel, or store names"
        ) from None
    seen: set[str] = set()
    for number, name in enumerate(names):
        if not name:
            raise DataError(f"{where}: class {number} has no name ({raw[number]!r}); give it one")
        if name in seen:
            raise DataError(f"{where}: two classes are called {name!r}; rename one")
        seen.add(name)
    return names
