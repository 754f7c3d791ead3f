"""The questions of `ablations.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError
from pipeline.config.params import flatten
from pipeline.config.reading.yaml_file import parse_yaml, read_yaml
from pipeline.config.recipe import Recipe

ABLATIONS = Path(__file__).with_name("ablations.yaml")
SEED = "distill.seed"


@dataclass(frozen=True)
class Ablation:
    """One question.

    Attributes:
        name: What `kdeov ablation` calls it.
        question: In a sentence; the title of the table.
        seeds: Values of `distill.seed`; each variant runs with each.
        variants: By name, the params that a variant changes, as `dvc exp run -S` takes them. The
            others are compared with the first.
        metrics: By column of the table, the address of a metric: file, then keys below the data
            set, joined by dots.
        stages: Targets of `dvc exp run`.
        settings: Params of all variants; a variant's own come after, and win.
        recipe: The recipe that all variants begin with; None for the params of the last commit.
        data: Folder of the recipe's data; replaces data/ in it.
        changes: Params of the recipe that have other values, as `section.key=value`.
    """

    name: str
    question: str
    seeds: list[int]
    variants: dict[str, list[str]]
    metrics: dict[str, str]
    stages: list[str]
    settings: list[str] = field(default_factory=list)
    recipe: str | None = None
    data: Path | None = None
    changes: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str, data: Path | None = None, changes: Sequence[str] = ()) -> Ablation:
        """Reads an ablation of `ablations.yaml`.

        Args:
            name: Its name.
            data: Folder of the recipe's data, where it has a recipe.
            changes: Params of the recipe with other values.

        Raises:
            ConfigError: There is none of this name, or it has no recipe to change.
        """
        ablations = read_yaml(ABLATIONS)
        if name not in ablations:
            near = get_close_matches(name, ablations, n=1)
            hint = f"did you mean {near[0]}? There are" if near else "choose from"
            raise ConfigError(f"no ablation is called {name!r}; {hint} {', '.join(ablations)}")
        ablation = cls(name, **ablations[name], data=data, changes=tuple(changes))
        if ablation.recipe is None and (data is not None or changes):
            raise ConfigError(
                f"{name} has no recipe, so that --data and --set change nothing; change "
                "params.yaml and commit it"
            )
        return ablation

    def experiment(self, variant: str, seed: int) -> str:
        """The name of the DVC experiment of a variant."""
        return f"{self.name}-{variant}-seed-{seed}"

    def params(self, variant: str, seed: int) -> dict[str, str]:
        """The params of a variant that `dvc exp run -S` changes, values as YAML."""
        changes = (*self.settings, *self.variants[variant], f"{SEED}={seed}")
        return dict(change.split("=", 1) for change in changes)  # the last one counts

    def recipe_params(self) -> str | None:
        """The text of the recipe's `params.yaml`, None where the commit's counts.

        Raises:
            ConfigError: There is no such recipe.
        """
        recipe = self._recipe()
        return None if recipe is None else recipe.text

    def require_data(self, root: Path) -> None:
        """Refuses a recipe whose data is not there.

        Raises:
            ConfigError: A file or folder is missing.
        """
        recipe = self._recipe()
        for key, place in ({} if recipe is None else recipe.needs).items():
            if not (root / place).exists():
                raise ConfigError(
                    f"{place} is missing, {key} of {self.recipe}; give --data FOLDER or "
                    f"--set {key}=PATH, and see `kdeov recipes {self.recipe}`"
                )

    def _recipe(self) -> Recipe | None:
        if self.recipe is None:
            return None
        return Recipe.named(self.recipe).with_changes(self.data, self.changes)

    def require_params(
        self, experiment: str, found: Mapping[str, Any], variant: str, seed: int
    ) -> None:
        """Compares the params of an experiment with those of a variant.

        Args:
            experiment: Name of the experiment.
            found: Its params.
            variant: Name of the variant.
            seed: Value of `distill.seed`.

        Raises:
            ConfigError: They differ.
        """
        wanted = flatten(parse_yaml(self.recipe_params() or "{}", "params.yaml"))
        changes = self.params(variant, seed)
        wanted |= {key: parse_yaml(value, key) for key, value in changes.items()}
        values = flatten(dict(found))
        for key, value in wanted.items():
            if values.get(key) != value:
                raise ConfigError(
                    f"experiment {experiment} exists with {key}={values.get(key)}, not {value}; "
                    f"remove it with `dvc exp remove {experiment}`"
                )
