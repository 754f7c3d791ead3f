"""The origin of params: the recipe that they are nearest to, and where they differ from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config.params import Params, check_params, flatten
from pipeline.config.reading.yaml_file import parse_yaml
from pipeline.config.recipe import Recipe

MACHINE_SECTIONS = {"data", "cluster", "tracking"}  # change no number of a run
OWN = "own"
"""The recipe of params that no recipe is near to: they take another source or another teacher."""
KINDS = ("prepare.source", "teacher.source")


@dataclass(frozen=True)
class Origin:
    """Params as a recipe and what was changed in it.

    Attributes:
        recipe: Name of the recipe, or `OWN`.
        changes: By dotted name, the values that differ from the recipe's; empty for `OWN`.
    """

    recipe: str
    changes: dict[str, Any]

    @classmethod
    def of(cls, params: Params) -> Origin:
        """The recipe with the fewest differences, of those with the same sources of images and
        teacher.
        """
        own = _values(params)
        found = [
            cls(name, changes)
            for name, values in _recipes().items()
            if (changes := _changes(own, values)).keys().isdisjoint(KINDS)
        ]
        return min(found, key=lambda origin: len(origin.changes), default=cls(OWN, {}))


@lru_cache
def _recipes() -> dict[str, dict[str, Any]]:
    """The values of every recipe, by name."""
    root = Path()
    return {
        recipe.name: _values(check_params(parse_yaml(recipe.text, recipe.name), root))
        for recipe in Recipe.all()
    }


def _values(params: Params) -> dict[str, Any]:
    """The params that numbers depend on, by dotted name."""
    return flatten(params.model_dump(mode="json", exclude=MACHINE_SECTIONS))


def _changes(values: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The values that a recipe has otherwise, or not at all."""
    absent = object()
    return {
        key: value for key, value in values.items() if not _equal(value, recipe.get(key, absent))
    }


def _equal(value: Any, other: Any) -> bool:
    """Whether two values are the same. Of paths, the folders of the machine do not count."""
    if isinstance(value, str) and isinstance(other, str) and Path(value).is_absolute():
        return Path(value).name == Path(other).name
    return bool(value == other)
