"""Prompts of zero-shot classification: templates, and the names of classes that they take."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError

# `simple` is the single prompt of CLIP's paper; `openai-7` is the short ensemble that its authors
# found to do nearly as well as their 80 on ImageNet (openai/CLIP,
# notebooks/Prompt_Engineering_for_ImageNet.ipynb, MIT); `detic` is the prompt of the class
# embeddings that Detic and YOLO-World are published with.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "simple": ("a photo of a {}.",),
    "plain": ("{}", "a {}", "a photo of a {}.", "a picture of a {}.", "there is a {}."),
    "detic": ("a {}",),
    "openai-7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}
# letters and symbols without ink: the fillers of Hangul, and the blank of Braille
BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
INVISIBLE = ("Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp")  # categories of Unicode
TEMPLATES_FILE = Path(__file__).with_name("templates.json")


@cache
def published_templates() -> dict[str, tuple[str, ...]]:
    """The sets of CLIP's benchmarks: `openai-80` for ImageNet, and one per data set, such as
    `cifar10`; `templates.json` names their sources.
    """
    return {
        name: tuple(prompts)
        for name, prompts in json.loads(TEMPLATES_FILE.read_text(encoding="utf-8"))["sets"].items()
    }


def templates(name: str) -> tuple[str, ...]:
    """Prompts of a named set, each with one `{}`.

    Raises:
        ConfigError: The set is unknown; names the nearest one.
    """
    known = TEMPLATES | published_templates()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TEMPLATES)}, ..."
        raise ConfigError(f"template set {name!r} is unknown; {hint}")
    return known[name]


def as_templates(given: Any) -> tuple[str, ...]:
    """Prompt templates as callers give them.

    Args:
        given: The name of a set, one template, or several; each template has one `{}`.

    Raises:
        ConfigError: An unknown set, no template, or a template without exactly one `{}`.
    """
    if isinstance(given, str):
        listed: tuple[Any, ...] = (given,) if "{" in given else templates(given)
    elif isinstance(given, Iterable) and not isinstance(given, bytes | Mapping | Set):
        listed = tuple(given)
    else:
        raise ConfigError(
            f"templates are {_kind(given)}; give the name of a set, or a list of templates"
        )
    if not listed:
        raise ConfigError("there is no template; give at least one, such as 'a photo of a {}.'")
    for template in listed:
        if not isinstance(template, str) or not _names_a_class(template):
            raise ConfigError(
                f"template {template!r} does not have one {{}} for the class name; give templates "
                "such as 'a photo of a {}.'"
            )
    return listed


def class_prompts(class_names: Any) -> list[str]:
    """Class names as callers give them, each as `normalize_class_name` spells it.

    Args:
        class_names: Names in the order of their classes, or a mapping whose values are the names.
            A mapping of all numbers from 0 on is put in the order of the numbers, also where they
            are texts, as in JSON, which libraries sort to "0", "1", "10", "2".

    Raises:
        ConfigError: No names, one string, a set, which has no order, or a name that is none.
    """
    if isinstance(class_names, Mapping):
        numbers = {key: _number(key) for key in class_names}
        numbered = set(numbers.values()) == set(range(len(numbers)))
        keys = sorted(numbers, key=numbers.__getitem__) if numbered else list(numbers)
        class_names = [class_names[key] for key in keys]
    # a string is a sequence of letters, never meant as such
    if not isinstance(class_names, Iterable) or isinstance(class_names, str | bytes | Set):
        raise ConfigError(f"class names are {_kind(class_names)}; give a list of names")
    names = [normalize_class_name(name, number) for number, name in enumerate(class_names)]
    if not names:
        raise ConfigError("there is no class name; give at least one")
    return names


def normalize_class_name(name: Any, number: int | None = None) -> str:
    """A class name in its one spelling: NFC, with single spaces between words and none around.

    Args:
        name: The name.
        number: Number of the class, for errors.

    Raises:
        ConfigError: The name is no text, or has no visible character.
    """
    where = "a class name" if number is None else f"class name {number}"
    if not isinstance(name, str):
        raise ConfigError(f"{where} is {_kind(name)}; give a text")
    if not is_visible(name):
        raise ConfigError(f"{where} is {name!r}, which names nothing; give a name or leave it out")
    return normalize_text(name)


def is_visible(text: str) -> bool:
    """Whether a reader sees anything of a text: spaces, zero-width characters, controls and
    accents without a letter show nothing.
    """
    return any(char not in BLANKS and unicodedata.category(char) not in INVISIBLE for char in text)


def normalize_text(text: str) -> str:
    """A text in NFC, with single spaces between words and none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def templates_digest(prompts: Sequence[str]) -> str:
    """Eight hexadecimal digits of a list of templates, for evaluation protocols."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]


def _number(key: Any) -> Any:
    """The number that a key of a mapping spells; another key as it is."""
    return int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) else key


def _names_a_class(template: str) -> bool:
    """Whether a template takes exactly one class name."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
        template.format("")
    except (ValueError, LookupError, AttributeError):  # a single brace, other fields
        return False
    return [field for field in fields if field is not None] == [""]


def _kind(value: Any) -> str:
    """A value for an error, or its type where the value may be long."""
    short = value is None or isinstance(value, str | bytes | int | float)
    return repr(value) if short else f"of type {type(value).__name__}"
