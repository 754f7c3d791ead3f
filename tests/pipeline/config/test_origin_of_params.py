"""Params name the recipe that they are nearest to, and what was changed in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.params import Params, check_params
from pipeline.config.reading.yaml_file import parse_yaml
from pipeline.config.recipe import OWN, Origin, Recipe


def params(name: str, *changes: str, data: Path | None = None) -> Params:
    recipe = Recipe.named(name).with_changes(data, changes)
    return check_params(parse_yaml(recipe.text, name), Path("/checkout/params.yaml"))


@pytest.mark.parametrize("name", [recipe.name for recipe in Recipe.all()])
def test_a_recipe_is_its_own_origin_wherever_its_data_lie(name: str) -> None:
    assert Origin.of(params(name)) == Origin(name, {})
    assert Origin.of(params(name, data=Path("/mnt/data"))) == Origin(name, {})


def test_changes_are_those_of_the_command_that_made_them() -> None:
    found = Origin.of(params("scenes", "distill.epochs=3", "zero_shot.templates=detic"))
    assert found == Origin("scenes", {"distill.epochs": 3, "zero_shot.templates": "detic"})


def test_where_a_run_is_computed_is_no_change() -> None:
    found = Origin.of(params("scenes", "cluster.num_workers=7", "tracking.experiment=mine"))
    assert found.changes == {}


def test_params_with_another_teacher_than_any_recipe_are_ones_own() -> None:
    # no recipe takes generated scenes with a teacher from a file
    changed = params(
        "scenes", "teacher.source=clip", "teacher.path=a.pt", "teacher.clip={model: RN50}"
    )
    assert Origin.of(changed) == Origin(OWN, {})
