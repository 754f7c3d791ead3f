"""Says in one line what is wrong in `params.yaml`, from what pydantic found."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.config.renamed import RENAMED
from pipeline.config.schema import SECTION_ERROR
from pipeline.console import without_login

SHOWN = 80  # characters of a wrong value
BOUNDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}


class Place(NamedTuple):
    """Where a fault is.

    Attributes:
        keys: Names of sections, and of the key at which the fault is.
        field: The schema of that key; None where there is no such key.
        inner: Keys and indices within the value of the key.
    """

    keys: tuple[str, ...]
    field: FieldInfo | None
    inner: tuple[str | int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, (*self.keys, *self.inner)))


def explain(error: ValidationError, schema: type[BaseModel], values: Any) -> str:
    """The first fault in one line, and how many others there are.

    Args:
        error: Of the validation of `values`.
        schema: What they were validated against.
        values: What the file holds.
    """
    faults: dict[tuple[str, ...], tuple[Place, ErrorDetails]] = {}
    for fault in error.errors():
        place = _place(fault, schema, values)
        known = faults.get(place.keys)
        # of the alternatives of one key, the one that got furthest says most
        if known is None or len(place.inner) > len(known[0].inner):
            faults[place.keys] = place, fault
    # a mistyped key is also missing under its right name: the typing error says more
    place, fault = min(faults.values(), key=lambda pair: pair[1]["type"] != "extra_forbidden")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return _sentence(place, fault, schema) + more


def _sentence(place: Place, fault: ErrorDetails, schema: type[BaseModel]) -> str:
    where, value = str(place) or "the file", fault["input"]
    if fault["type"] == SECTION_ERROR:
        return f"{place}{'.' if place.keys else ''}{fault['msg']}"
    if fault["type"] == "extra_forbidden":
        return _unknown(place, schema)
    if fault["type"] == "invalid_key":  # a number, a date, true or null
        return _unknown(place._replace(keys=(*place.keys[:-1], str(value))), schema)
    if fault["type"] == "missing" and fault["loc"][-1] == place.keys[-1]:
        return f"{where} is missing; every key of a stage must be given"
    if fault["type"] == "value_error":
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}, not {_shown(value)}"
    if fault["loc"][-1:] == ("[key]",):
        return f"{where}: a key must be text; put {_shown(value)} in quotes"
    annotation = schema if place.field is None else place.field.annotation
    if value is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{where} is empty; its keys are {', '.join(annotation.model_fields)}"
    expected = describe(annotation, place.field.metadata if place.field else [])
    return f"{where}: give {expected}, not {_shown(value)}"


def _unknown(place: Place, schema: type[BaseModel]) -> str:
    """The answer to a key that does not exist: its new name, the nearest one, or all of them."""
    *names, key = place.keys
    where, parent = str(place), ".".join(names)
    if (new := RENAMED.get(where)) is not None:
        return f"{where} is now {'.'.join([*names, new])}; rename it"
    section: Any = schema
    for name in names:
        if not name.isdigit():  # an index of a list of sections
            section = section_of(section.model_fields[name])
    known = list(section.model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
    return f"{where} is not a key{f' of {parent}' if parent else ''}; {hint}"


def _place(fault: ErrorDetails, schema: type[BaseModel], values: Any) -> Place:
    """The place of a fault, without the names of types that pydantic puts between the keys."""
    keys: list[str] = []
    inner: list[str | int] = []
    section: type[BaseModel] | None = schema
    field: FieldInfo | None = None
    for part in fault["loc"]:
        holds = isinstance(values, dict) and part in values
        if isinstance(values, list | tuple) and isinstance(part, int):
            holds = part < len(values)
        if section is not None and isinstance(part, str):
            keys.append(part)
            field = section.model_fields.get(part)
            section = section_of(field) if field is not None else None
        elif section is not None and holds:
            keys.append(str(part))
        elif holds:
            inner.append(part)
        else:
            continue
        values = values[part] if holds else None
    return Place(tuple(keys), field, tuple(inner))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, alone or in a list; None for a plain value."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def describe(annotation: Any, metadata: list[Any] | None = None) -> str:
    """The values that a type takes, in words that follow "give".

    Args:
        annotation: Type of a key.
        metadata: Constraints on it, as pydantic's `FieldInfo` lists them.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    constraints = list(_constraints(metadata or []))
    if origin is Annotated:
        return describe(parts[0], [*parts[1:], *constraints])
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, parts[:-1])), str(parts[-1]))))
    if origin in (Union, UnionType):
        return ", or ".join(describe(part, constraints) for part in parts)
    if origin is list:
        least = "at least one" if any(isinstance(c, MinLen) for c in constraints) else "any number"
        return f"a list of {least}: {describe(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}: {'; '.join(map(describe, parts))}"
    if origin is dict:
        return f"a mapping of {describe(parts[0])} to {describe(parts[1])}"
    if annotation in (int, float):
        name = "a whole number" if annotation is int else "a number"
        return ", ".join([name, *_bounds(constraints)]).replace("number, from", "number from")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {', '.join(annotation.model_fields)}"
    names = {type(None): "null", bool: "true or false", str: "text", Path: "a path"}
    longest = [c.max_length for c in constraints if isinstance(c, MaxLen)]
    limit = f" of at most {longest[0]} characters" if longest else ""
    return names.get(annotation, str(annotation)) + limit


def _bounds(constraints: list[Any]) -> Iterator[str]:
    """Limits of a number: "from 1 to 10", "above 0, at most 1", "a multiple of 32"."""
    limits = {
        kind: f"{getattr(item, kind.__name__.lower()):.10g}"
        for kind in BOUNDS
        for item in constraints
        if isinstance(item, kind)
    }
    if limits.keys() == {Ge, Le}:
        yield f"from {limits[Ge]} to {limits[Le]}"
    else:
        yield from (f"{BOUNDS[kind]} {limit}" for kind, limit in limits.items())
    yield from (f"a multiple of {c.multiple_of}" for c in constraints if isinstance(c, MultipleOf))


def _constraints(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _constraints(item.metadata)
        else:
            yield item


def _shown(value: Any) -> str:
    text = without_login(repr(value))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
