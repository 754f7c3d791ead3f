"""Reads YAML as DVC does: YAML 1.2, in which `1e-3` is a number, and `yes` and `1:30` are texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from kdeov.errors import ConfigError, one_line

INT = "tag:yaml.org,2002:int"
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ConfigError: The file cannot be read, or see `parse_yaml`.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run in the folder of {path.name}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: bytes | str, name: str) -> Any:
    """The value of a text.

    Args:
        text: One YAML document.
        name: What errors begin with.

    Raises:
        ConfigError: It is no YAML, gives a key twice, or has a number with a leading zero, which
            YAML 1.1 takes for octal and YAML 1.2 for decimal.
    """
    try:
        root = YAML(typ="safe", pure=True).compose(text)
        if root is not None:
            _check(root, name, (), set())
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, KeyError, RecursionError) as error:  # the third of `!!bool x`
        reason, _, _ = str(error).partition("To suppress this check")
        raise ConfigError(f"{name}: not YAML ({' '.join(reason.split())})") from error


def _check(node: Node, name: str, keys: tuple[str, ...], seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    where = f"{name}: {'.'.join(keys)}"
    if isinstance(node, ScalarNode):
        if node.tag == INT and node.style is None and LEADING_ZERO.fullmatch(node.value):
            decimal = int(node.value)
            raise ConfigError(
                f"{where}: {node.value} is {decimal} to some readers of YAML and octal to others; "
                f"write {decimal}, or put it in quotes"
            )
    elif isinstance(node, SequenceNode):
        for number, item in enumerate(node.value):
            _check(item, name, (*keys, str(number)), seen)
    elif isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            inner = (*keys, one_line(str(key.value)))
            if isinstance(key, ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise ConfigError(
                        f"{name}: {'.'.join(inner)} is given twice, in line {lines[key.value]} "
                        f"and in line {line}; remove one"
                    )
                lines[key.value] = line
            _check(key, name, inner, seen)
            _check(value, name, inner, seen)
