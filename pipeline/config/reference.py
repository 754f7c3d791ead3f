"""The reference of `params.yaml`, `docs/params.md`, generated from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from pipeline.config.params import Params
from pipeline.config.reading.explain import section_of
from pipeline.config.reading.yaml_file import read_yaml

PARAMS = Path(__file__).with_name("recipes") / "scenes.yaml"  # equals params.yaml
HEAD = """# params.yaml

Written by `kdeov params > docs/params.md`. "Default" is the value in the committed `params.yaml`.
"""


def params_markdown() -> str:
    """The keys of all sections, with type, default and meaning, as Markdown tables."""
    values = read_yaml(PARAMS)
    parts = [HEAD]
    for name, field in Params.model_fields.items():
        parts.append(f"## {name}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts[-1] += "".join(_rows(section_of(field), values.get(name) or {}, "")) + "\n"
    return "\n".join(parts)


def _rows(model: Any, values: dict[str, Any], prefix: str) -> Iterator[str]:
    # parts of a section come after its own keys
    for name, field in sorted(
        model.model_fields.items(), key=lambda item: section_of(item[1]) is not None
    ):
        inner, value = section_of(field), values.get(name)
        shown = "" if name not in values or inner is not None else f"`{yaml_inline(value)}`"
        kind = "section" if inner is not None else f"`{_type(field.annotation)}`"
        cells = (f"`{prefix}{name}`", kind, shown, " ".join((field.description or "").split()))
        yield "\n| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        if inner is not None:
            yield from _rows(inner, value or {}, f"{prefix}{name}.")


def yaml_inline(value: Any) -> str:
    """A value as a line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _type(annotation: Any) -> str:
    """A type in Python's notation, without constraints."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type, parts))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, parts))}]"
    return "null" if annotation is type(None) else annotation.__name__
