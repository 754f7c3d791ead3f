"""What the bytes of a shard follow from: the computation, the reader of the source, the inputs."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import features

PREPARE_VERSION = 1
"""Version of the computation that turns inputs into shards: raise it when a change gives other
bytes (`tests/pipeline/prepare/test_identity.py` says when). It stands in the record of every shard,
so that `prepare` makes older ones again."""
LIBRARIES = ("numpy", "pillow", "pillow-heif")  # which decode and draw images


def source_identity(source: str, make: Callable[[Any], Any]) -> dict[str, Any]:
    """Everything that samples follow from besides their inputs, JSON types only.

    Args:
        source: The kind of source.
        make: Makes a sample of one input (see `Source.make`).
    """
    return {"version": PREPARE_VERSION, "source": source, "reader": values_digest([make])}


def values_digest(values: Iterable[Any]) -> str:
    """The sha256 of plain values in order: equal values have equal digests in every process.

    Args:
        values: Numbers, strings, bytes, paths, arrays, dataclasses, functions of modules, methods,
            and containers of these. An object with a method `identity()` is what that returns;
            fields of dataclasses that are not compared are left out.

    Raises:
        TypeError: A value is none of these.
    """
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, default=_plain, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def versions() -> dict[str, str | None]:
    """Versions of what makes samples, which workers must share: other libraries encode, or reject,
    other bytes.
    """
    found = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return {"prepare": str(PREPARE_VERSION), "libjpeg": jpeg, **found}


def _plain(value: Any) -> Any:
    """The JSON of a value that `json` does not know."""
    if hasattr(value, "identity"):
        return [_name(type(value)), value.identity()]
    if is_dataclass(value) and not isinstance(value, type):
        return [_name(type(value)), *(getattr(value, f.name) for f in fields(value) if f.compare)]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
        return [value.dtype.str, value.shape, digest]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(item, default=_plain) for item in value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, array):
        return value.tolist()
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    owner, function = getattr(value, "__self__", None), getattr(value, "__func__", value)
    if hasattr(function, "__qualname__"):
        return [_name(function), owner]
    raise TypeError(f"{type(value).__name__} is no plain value")


def _name(thing: Any) -> str:
    return str(thing.__qualname__)
