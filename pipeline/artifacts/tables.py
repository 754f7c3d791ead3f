"""Files that list images, read with errors that a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdeov.errors import KdeovError


@contextmanager
def reading(path: Path, option: str) -> Iterator[None]:
    """Turns what goes wrong while a text file is read into one line.

    Args:
        path: The file.
        option: The keys of `params.yaml` that name it.

    Raises:
        KdeovError: The file is missing, or no UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise KdeovError(f"{path}: not UTF-8 ({_undecodable(path)}); save it as UTF-8") from error
    except OSError as error:
        raise KdeovError(f"{path}: {error.strerror}; check {option}") from error


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
        KdeovError: The file is missing, no UTF-8, or no JSON mapping.
    """

    def drop(values: dict[str | None, Any]) -> dict[str | None, Any]:
        values.pop(without, None)
        return values

    hook = None if without is None else drop
    with reading(path, option):
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=hook)
        except (json.JSONDecodeError, RecursionError) as error:
            raise KdeovError(f"{path}: no JSON ({error}); check {option}") from error
    if not isinstance(values, dict):
        raise KdeovError(f"{path}: no JSON mapping; check {option}")
    return values
