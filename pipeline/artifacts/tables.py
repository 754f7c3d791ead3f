"""Tables of images and captions (JSON, CSV, TSV, Parquet), read with errors that name the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdeov.errors import DataError
from pipeline.console import printable

# tab-separated values have no quotes by their definition, and captions do have some
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
TAB = "\t"
SEPARATORS = {"commas": ",", "semicolons": ";", "tabs": TAB, "bars": "|"}
SUFFIXES = {",": "call it .csv", TAB: "call it .tsv"}
TOO_MANY_CELLS = {
    ".csv": "put quotes around texts that hold a comma",
    ".tsv": "a text must hold no tab; save it as .csv with quotes",
}


@contextmanager
def reading(path: Path, option: str) -> Iterator[None]:
    """Turns what goes wrong while a text file is read into one line.

    Args:
        path: The file.
        option: The keys of `params.yaml` that name it.

    Raises:
        DataError: The file is missing, or no UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({_undecodable(path)}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check {option}") from error


def _undecodable(path: Path) -> str:
    """Where a file stops to be UTF-8; what reads it in pieces knows only the place in a piece."""
    start = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}, byte {start + error.start}"
            start += len(line)
    return "at its end"


def read_json_table(path: Path, option: str, without: str | None = None) -> dict[str, Any]:
    """Reads a JSON file that holds a mapping.

    Args:
        path: The file.
        option: The keys of `params.yaml` that name it.
        without: A key that is dropped from all mappings while they are read, to save memory.

    Raises:
        DataError: The file is missing, no UTF-8, or no JSON mapping.
    """

    def drop(values: dict[str | None, Any]) -> dict[str | None, Any]:
        values.pop(without, None)
        return values

    hook = None if without is None else drop
    with reading(path, option):
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=hook)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}: no JSON ({error}); check {option}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: no JSON mapping; check {option}")
    return values


def table_rows(path: Path, columns: Sequence[str], option: str, naming: str) -> Iterator[list[str]]:
    """Some columns of each row, as texts; what is empty is the empty text.

    Args:
        path: The table; its suffix tells what it is.
        columns: Names of the columns.
        option: The keys of `params.yaml` that name the table.
        naming: The section of `params.yaml` that names the columns.

    Raises:
        DataError: The table is missing, malformed or no UTF-8, or lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, columns, option, naming)
    if suffix in DIALECTS:
        return _text_rows(path, columns, option, naming, DIALECTS[suffix])
    raise DataError(f"{path}: is no .csv, .tsv or .parquet; check {option}")


def _text_rows(
    path: Path, columns: Sequence[str], option: str, naming: str, dialect: dict[str, Any]
) -> Iterator[list[str]]:
    with reading(path, option), open(path, newline="", encoding="utf-8-sig") as file:
        _check_separator(path, columns, file.readline(), dialect.get("delimiter", ","))
        file.seek(0)
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
                        raise DataError(
                            f"{path}: line {reader.line_num} has {len(row)} cells, the header "
                            f"{width}; {TOO_MANY_CELLS[path.suffix.lower()]}"
                        )
                    row += [""] * (width - len(row))
                yield [row[place] for place in places]
        except csv.Error as error:
            cure = "fix the quotes" if path.suffix.lower() == ".csv" else "shorten the text"
            raise DataError(f"{path}: line {reader.line_num}: {error}; {cure}") from error


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
                        raise DataError(f"{path}: column {name!r} holds {kind}; store strings")
                for batch in table.iter_batches(columns=list(columns)):
                    values = [batch.column(name).to_pylist() for name in columns]
                    for row in zip(*values, strict=True):
                        yield [text or "" for text in row]
        except pyarrow.ArrowException as error:
            raise DataError(
                f"{path}: no Parquet ({' '.join(str(error).split())}); check {option}"
            ) from error


def _check_separator(path: Path, columns: Sequence[str], header: str, expected: str) -> None:
    """Finds the columns by another separator than the suffix of the table promises."""
    wanted = set(columns)
    if wanted & _cells(header, expected):
        return
    for name, separator in SEPARATORS.items():
        if wanted & (cells := _cells(header, separator)) and len(cells) > 1:
            cure = SUFFIXES.get(separator, "save it with commas, or as .tsv with tabs")
            raise DataError(f"{path}: its cells are separated by {name}; {cure}")


def _cells(header: str, separator: str) -> set[str]:
    return {cell.strip().strip('"') for cell in header.split(separator)}


def _check_columns(path: Path, columns: Sequence[str], found: list[str], naming: str) -> None:
    known = ", ".join(map(printable, found)) or "none"
    for name in columns:
        if name not in found:
            raise DataError(
                f"{path}: no column {name!r}, its columns are {known}; name them in {naming}"
            )
        if found.count(name) > 1:
            raise DataError(f"{path}: several columns are called {name!r}; rename all but one")
