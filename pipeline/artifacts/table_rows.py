"""Rows of a table in CSV, TSV or Parquet, read as they go."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError
from pipeline.artifacts.tables import reading
from pipeline.console import printable

# tab-separated values have no quotes by their definition, and captions do have some
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


def table_rows(path: Path, columns: Sequence[str], option: str, naming: str) -> Iterator[list[str]]:
    """Some columns of each row, as texts; what is empty is the empty text.

    Args:
        path: The table; its suffix tells what it is.
        columns: Names of the columns.
        option: The keys of `params.yaml` that name the table.
        naming: The section of `params.yaml` that names the columns.

    Raises:
        KdeovError: The table is missing, malformed or no UTF-8, or lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, columns, option, naming)
    if suffix in DIALECTS:
        return _text_rows(path, columns, option, naming, DIALECTS[suffix])
    raise KdeovError(f"{path}: is no .csv, .tsv or .parquet; check {option}")


def _text_rows(
    path: Path, columns: Sequence[str], option: str, naming: str, dialect: dict[str, Any]
) -> Iterator[list[str]]:
    with reading(path, option), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True, **dialect)
        try:
            header = next(reader, [])
            _check_columns(path, columns, header, naming)
            places, width = [header.index(name) for name in columns], len(header)
            for row in reader:
                if not row:
                    continue
                if len(row) != width:
                    if any(row[width:]):  # the end of a text, and nobody would miss it
                        raise KdeovError(
                            f"{path}: line {reader.line_num} has {len(row)} cells, the header "
                            f"{width}; put quotes around texts that hold a separator"
                        )
                    row += [""] * (width - len(row))
                yield [row[place] for place in places]
        except csv.Error as error:
            raise KdeovError(f"{path}: line {reader.line_num}: {error}; mend the quotes") from error


def _parquet_rows(
    path: Path, columns: Sequence[str], option: str, naming: str
) -> Iterator[list[str]]:
    import pyarrow  # takes long to import, and only this needs it
    from pyarrow import parquet

    with reading(path, option):
        try:
            with parquet.ParquetFile(path) as table:
                _check_columns(path, columns, table.schema_arrow.names, naming)
                for name in columns:
                    kind = table.schema_arrow.field(name).type
                    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                        raise KdeovError(f"{path}: column {name!r} holds {kind}; store texts")
                for batch in table.iter_batches(columns=list(columns)):
                    values = [batch.column(name).to_pylist() for name in columns]
                    for row in zip(*values, strict=True):
                        yield [text or "" for text in row]
        except pyarrow.ArrowException as error:
            raise KdeovError(
                f"{path}: no Parquet ({' '.join(str(error).split())}); check {option}"
            ) from error


def _check_columns(path: Path, columns: Sequence[str], found: list[str], naming: str) -> None:
    known = ", ".join(map(printable, found)) or "none"
    for name in columns:
        if name not in found:
            raise KdeovError(
                f"{path}: no column {name!r}, its columns are {known}; name them in {naming}"
            )
        if found.count(name) > 1:
            raise KdeovError(f"{path}: several columns are called {name!r}; rename all but one")
