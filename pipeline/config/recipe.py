"""Recipes: complete params files for known data sets; and the recipe that params are nearest to."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from kdeov.errors import ConfigError
from kdeov.weights.folder import user_path
from pipeline.config.params import Params, check_params, flatten
from pipeline.config.reading.yaml_file import parse_yaml
from pipeline.storage.files import digest, write_text

RECIPES = Path(__file__).with_name("recipes")
PATH_KEYS = ("prepare.path", "teacher.path", "distill.backbone_weights")
PROJECT_FOLDERS = ("out/", "pipeline/")  # outputs of stages, and files of the project
DATA = "data/"  # folder of the checkout in which recipes look for data sets and weights
MACHINE_SECTIONS = {"data", "cluster", "tracking"}  # change no number of a run
ADDRESS = re.compile("[a-z0-9]{2,}:/")
OWN = "own"
"""The recipe of params that no recipe is near to: they take another source or another teacher."""
KINDS = ("prepare.source", "teacher.source")


@dataclass(frozen=True)
class Recipe:
    """A file of `pipeline/config/recipes/`.

    Attributes:
        name: Name of the file, without its suffix.
        text: The whole text.
    """

    name: str
    text: str

    @classmethod
    def all(cls) -> list[Recipe]:
        """Every recipe, by name."""
        paths = sorted(RECIPES.glob("*.yaml"))
        return [cls(path.stem, path.read_text(encoding="utf-8")) for path in paths]

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The recipe with a name.

        Raises:
            ConfigError: There is none.
        """
        recipes = {recipe.name: recipe for recipe in cls.all()}
        if name not in recipes:
            raise ConfigError(f"no recipe is called {name!r}; choose from {', '.join(recipes)}")
        return recipes[name]

    @property
    def about(self) -> str:
        """The comment that the file begins with: which data to get, from where, and the license."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)

    @property
    def summary(self) -> str:
        """A line that says which data and models the recipe takes."""
        return self.about.splitlines()[0]

    @property
    def needs(self) -> dict[str, str]:
        """Files and folders that a user provides, by the key of params that names each."""
        values = flatten(parse_yaml(self.text, self.name))
        paths = {key: values[key] for key in PATH_KEYS if values[key] is not None}
        return {k: v for k, v in paths.items() if not v.startswith(PROJECT_FOLDERS)}

    def with_changes(self, data: Path | None, changes: Sequence[str]) -> Recipe:
        """The recipe with other paths and values, and with its comments.

        Args:
            data: Folder that replaces `DATA`.
            changes: `section.key=value`, the value as YAML.

        Raises:
            ConfigError: A change is no such pair, its section does not exist, or `data` is no
                folder.
        """
        if data is None and not changes:
            return self
        if data is not None and ADDRESS.match(data.as_posix()):  # a path has lost one of its //
            raise ConfigError(
                f"--data {data}: give a folder; data in a bucket is --set prepare.path=s3://..., "
                "for image_folder, shards and parquet"
            )
        editor = YAML()
        editor.width, editor.preserve_quotes = 1000, True
        editor.representer.add_representer(
            type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        values = editor.load(self.text)
        if data is not None:
            _replace_prefix(values, DATA, f"{data.expanduser().as_posix()}/")
        for change in changes:
            address, equals, value = change.partition("=")
            *sections, key = address.split(".")
            place: Any = values
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if not equals or not isinstance(place, dict):
                raise ConfigError(f"--set {change}: give section.key=value of params.yaml")
            try:
                place[key] = editor.load(value)
            except (YAMLError, ValueError) as error:
                raise ConfigError(f"--set {change}: the value is no YAML") from error
        changed = io.StringIO()
        editor.dump(values, changed)
        return Recipe(self.name, changed.getvalue())


def use_recipe(recipe: Recipe, params: Path, force: bool = False) -> dict[str, str]:
    """Replaces `params.yaml` by a recipe.

    Args:
        recipe: The recipe.
        params: Path of `params.yaml`.
        force: Whether to replace a file that holds edits which git does not have.

    Returns:
        Files and folders that the recipe reads and that do not exist, by the key that names each.

    Raises:
        ConfigError: The recipe does not fit the schema, or edits would be lost.
    """
    check_params(parse_yaml(recipe.text, params.name), params)
    if not force and params.is_file() and not _is_recoverable(params):
        raise ConfigError(
            f"{params}: holds changes that git does not have; commit them, or give --force to lose "
            "them"
        )
    write_text(params, recipe.text)
    write_text(_last_digest(params), digest(recipe.text))
    files = {k: path for k, path in recipe.needs.items() if "://" not in path}
    return {k: p for k, p in files.items() if not (params.parent / user_path(p)).exists()}


def _is_recoverable(params: Path) -> bool:
    """Whether git, the recipes or `kdeov use` can restore the file."""
    content, last = params.read_bytes(), _last_digest(params)
    text = content.decode("utf-8", "replace")
    if any(recipe.text == text for recipe in Recipe.all()):
        return True
    if last.is_file() and last.read_text(encoding="utf-8") == digest(text):
        return True
    try:
        command = ["git", "show", f"HEAD:./{params.name}"]
        done = subprocess.run(command, cwd=params.parent, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout == content


def _last_digest(params: Path) -> Path:
    """The file that holds the digest of the last recipe that `use_recipe` wrote."""
    return params.parent / "work" / "recipe.sha256"


def _replace_prefix(value: Any, old: str, new: str) -> None:
    """Replaces a prefix of every text in a nested value, in place."""
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], dict | list):
            _replace_prefix(value[key], old, new)
        elif isinstance(value[key], str) and value[key].startswith(old):
            value[key] = new + value[key].removeprefix(old)


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
