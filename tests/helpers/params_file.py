"""Changes of params, and files that hold them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.params import Params, load_params


def put(values: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted place."""
    changed = copy.deepcopy(values)
    *sections, key = where.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[key] = value
    return changed


def without(values: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy that lacks a dotted place."""
    changed = copy.deepcopy(values)
    *sections, key = where.split(".")
    section = changed
    for name in sections:
        section = section[name]
    del section[key]
    return changed


def keys_of(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def load(folder: Path, values: Any) -> Params:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_params(path)
