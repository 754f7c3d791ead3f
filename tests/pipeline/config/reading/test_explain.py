"""Faults of params are told in the words of `params.yaml`, not in those of the schema's library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import ConfigError
from pipeline.config.params import Params, check_params, load_params
from pipeline.config.reading.yaml_file import parse_yaml
from tests.helpers.params_file import put

FOREIGN = re.compile(
    r"constrained|nullable|\[key\]|str\[|dict\[|tuple\[|union|[Ii]nput should|Params|pydantic"
)
WRONG = (
    None, 0, -3, 1.5, "", "text", True, [], [1], ["a", None], {}, {"a": 1}, {1: "a"}, {None: 2},
)  # fmt: skip


def every_key(values: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += every_key(value, f"{prefix}{key}.")
    return found


def message(values: Any) -> str:
    """The error of params; empty where they are right."""
    try:
        check_params(values, Path("/checkout/params.yaml"))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("recipe", ["scenes", "coco", "cifar10-embeddings"])
def test_no_fault_of_any_key_shows_the_names_of_types(root: Path, recipe: str) -> None:
    path = root / "pipeline" / "config" / "recipes" / f"{recipe}.yaml"
    values = parse_yaml(path.read_text(encoding="utf-8"), recipe)
    for key in every_key(values):
        for wrong in WRONG:
            text = message(put(values, key, wrong))
            assert "\n" not in text and not FOREIGN.search(text.replace(repr(wrong), "")), (
                key,
                text,
            )
            assert not text or text.startswith("params.yaml: "), text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cluster.num_workers", [0, 4], ("cluster.num_workers.0: give a whole number", "not 0")),
        ("tracking.experiment", "x" * 501, ("give text of at most 500 characters", "'xxx")),
        ("cluster.num_workers", "many", ("cluster.num_workers: give", "a list of 2", "not 'many'")),
        ("cluster.embed_batch", 0, ("cluster.embed_batch: give", "auto", "not 0")),
        ("cluster.mode", "cloud", ("cluster.mode: give inline, local or cluster",)),
        ("zero_shot.class_names", {0: "cat"}, ("zero_shot.class_names", "0", "quotes")),
        ("zero_shot.class_names", {"cat": 3}, ("zero_shot.class_names.cat", "not 3")),
        ("zero_shot.class_names", 3, ("zero_shot.class_names: give a mapping", "not 3")),
        ("linear_probe.C_grid", [1, "x"], ("linear_probe.C_grid.1", "not 'x'")),
        ("linear_probe.C_grid", [], ("linear_probe.C_grid: give a list", "at least one")),
        ("prepare.dataset", "my data", ("prepare.dataset: give a name", "not 'my data'")),
        ("prepare.path", "", ("prepare.path: give a text",)),
        ("prepare.path", "a\0b", ("prepare.path: give a text",)),
        ("data.storage", "", ("data.storage: give a text", "not ''")),
        ("tracking.experiment", " ", ("tracking.experiment: give a text",)),
        ("teacher.clip", 5, ("teacher.clip: give a mapping with the keys model", "not 5")),
        ("distill", None, ("distill is empty; its keys are seed, backbone",)),
        ("distill.losses", None, ("distill.losses is empty; its keys are feature",)),
        ("cluster", None, ("cluster is empty; its keys are mode",)),
        ("distill", [1], ("distill: give a mapping with the keys seed", "not [1]")),
        ("distill.fusion", "flim", ("distill.fusion: give film or cross_attention", "not 'flim'")),
    ],
)  # fmt: skip
def test_a_wrong_value_is_answered_with_what_to_give(
    values: dict[str, Any], key: str, value: Any, words: tuple[str, ...]
) -> None:
    text = message(put(values, key, value))
    assert all(word in text for word in words), text


@pytest.mark.parametrize("text", ["", "# all of it is a comment\n", "null\n", "---\n"])
def test_an_empty_file_is_called_empty(tmp_path: Path, complains: Any, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with complains("params.yaml: the file is empty", ", ".join(Params.model_fields)):
        load_params(path)


def test_a_key_in_a_list_of_sections_is_named_with_its_place(root: Path) -> None:
    recipe = root / "pipeline" / "config" / "recipes" / "cifar10-embeddings.yaml"
    values = parse_yaml(recipe.read_text(encoding="utf-8"), "recipe")
    (texts,) = values["teacher"]["embeddings"]["texts"]
    key = "teacher.embeddings.texts"
    assert f"{key}.0.vectrs is not a key" in message(put(values, key, [texts | {"vectrs": "x"}]))
    assert f"{key}.0.template: give" in message(put(values, key, [texts | {"template": "a"}]))
    assert f"{key}.0.names is missing" in message(
        put(values, key, [{"vectors": "v.npy", "template": "{}"}])
    )


def test_a_long_value_is_cut(values: dict[str, Any]) -> None:
    assert len(message(put(values, "distill.epochs", "x" * 10_000))) < 300


def test_faults_are_counted_by_key(values: dict[str, Any]) -> None:
    wrong = put(put(values, "cluster.num_workers", "many"), "cluster.embed_batch", "all")
    assert "(and 1 more)" in message(wrong)
