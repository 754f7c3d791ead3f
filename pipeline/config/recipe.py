"""Recipes: complete params files for known data sets, listed and put in place."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdeov.errors import KdeovError
from kdeov.prompts import templates
from pipeline.config.params import check_params, flatten
from pipeline.storage.files import digest, write_text

RECIPES = Path(__file__).with_name("recipes")
PLACES = ("prepare.path", "teacher.path", "distill.backbone_weights")
OURS = ("out/", "pipeline/")  # made by stages, or part of the project
DATA = "../shared/data"  # where recipes look for data, beside the checkout


@dataclass(frozen=True)
class Recipe:
    """One file of `pipeline/recipes/`.

    Attributes:
        name: Of the file, without its suffix.
        text: All of it.
    """

    name: str
    text: str

    @classmethod
    def all(cls) -> list[Recipe]:
        """Every recipe, by name."""
        return [cls(path.stem, path.read_text()) for path in sorted(RECIPES.glob("*.yaml"))]

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The recipe of a name.

        Raises:
            KdeovError: There is none.
        """
        recipes = {recipe.name: recipe for recipe in cls.all()}
        if name not in recipes:
            raise KdeovError(f"no recipe is called {name!r}; choose from {', '.join(recipes)}")
        return recipes[name]

    @property
    def summary(self) -> str:
        """Its first line: what it is."""
        return self.text.splitlines()[0].removeprefix("# ")

    @property
    def needs(self) -> dict[str, str]:
        """Files and folders of people's data that it reads, by the key that names each."""
        values = flatten(yaml.safe_load(self.text))
        places = {key: values[key] for key in PLACES if values[key] is not None}
        return {k: v for k, v in places.items() if not v.startswith(OURS)}

    def with_changes(self, data: Path | None, changes: Sequence[str]) -> Recipe:
        """The recipe for other places and values, with its comments.

        Args:
            data: Folder that stands for `DATA`.
            changes: `section.key=value`, the value as YAML.

        Raises:
            KdeovError: A change is no such pair, or its section does not exist.
        """
        from ruamel.yaml import YAML, YAMLError

        if data is None and not changes:
            return self
        editor = YAML()
        editor.width, editor.preserve_quotes = 1000, True
        editor.representer.add_representer(
            type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        values = editor.load(self.text)
        if data is not None:
            _move(values, f"{DATA}/", f"{data.expanduser().as_posix()}/")
        for change in changes:
            address, equals, value = change.partition("=")
            *sections, key = address.split(".")
            place: Any = values
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if not equals or not isinstance(place, dict):
                raise KdeovError(f"--set {change}: give section.key=value of params.yaml")
            try:
                place[key] = editor.load(value)
            except (YAMLError, ValueError) as error:
                raise KdeovError(f"--set {change}: the value is no YAML") from error
        changed = io.StringIO()
        editor.dump(values, changed)
        return Recipe(self.name, changed.getvalue())


def use_recipe(recipe: Recipe, params: Path, force: bool = False) -> dict[str, str]:
    """Puts a recipe in the place of `params.yaml`.

    Args:
        recipe: What to use.
        params: The file.
        force: Whether a file that a person has edited may be replaced.

    Returns:
        What the recipe reads and is not there, by the key that names it.

    Raises:
        KdeovError: The recipe does not fit the schema, or `params.yaml` holds changes that would be
            lost.
    """
    templates(check_params(yaml.safe_load(recipe.text), params).zero_shot.templates)
    if not force and params.is_file() and not _can_be_had_again(params):
        raise KdeovError(
            f"{params}: holds changes that git does not have; commit them, or give --force to lose "
            "them"
        )
    write_text(params, recipe.text)
    write_text(_written(params), digest(recipe.text))
    return {k: place for k, place in recipe.needs.items() if not (params.parent / place).exists()}


def _can_be_had_again(params: Path) -> bool:
    """Whether a file is in git as it is, is one of the recipes, or is what was put here last."""
    text, last = params.read_text(), _written(params)
    if any(recipe.text == text for recipe in Recipe.all()):
        return True
    if last.is_file() and last.read_text() == digest(text):
        return True
    try:
        command = ["git", "show", f"HEAD:./{params.name}"]
        done = subprocess.run(command, cwd=params.parent, capture_output=True, text=True)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout == text


def _written(params: Path) -> Path:
    """Holds the digest of the recipe that was put in place last."""
    return params.parent / "work" / "recipe.sha256"


def _move(value: Any, old: str, new: str) -> None:
    """Changes what all texts begin with."""
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], dict | list):
            _move(value[key], old, new)
        elif isinstance(value[key], str) and value[key].startswith(old):
            value[key] = new + value[key].removeprefix(old)
