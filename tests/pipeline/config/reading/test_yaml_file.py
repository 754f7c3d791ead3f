"""YAML is read as DVC reads it, and what has two readings is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml

from kdeov.errors import ConfigError
from pipeline.config.params import load_params
from pipeline.config.reading.yaml_file import parse_yaml, read_yaml

SCALARS = (
    "1e-3", "1.0e-3", "1:30", "190:20:30", "yes", "NO", "on", "~", "null", ".inf", "0x10", "0o10",
    "1_000", "2024-01-01", "0", "-0", "0.5", "08.5", "'010'", '"yes"', "é", "[1, 2]", "{a: 1}",
    "&x [1, 2]", "!!str 010",
)  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_value_is_what_it_is_for_dvc(tmp_path: Path, scalar: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {scalar}\n", encoding="utf-8")
    assert repr(read_yaml(path)) == repr(load_yaml(path))


def test_params_and_recipes_are_what_they_are_for_dvc(root: Path) -> None:
    recipes = (root / "pipeline" / "config" / "recipes").glob("*.yaml")
    for path in (root / "params.yaml", *recipes):
        assert read_yaml(path) == load_yaml(path)


@pytest.mark.parametrize("number", ["010", "08", "00", "-010", "+07", "0_1", "0010"])
def test_a_number_with_a_leading_zero_is_refused_wherever_it_stands(
    complains: Any, number: str
) -> None:
    for text, key in (
        (f"distill:\n  epochs: {number}\n", "distill.epochs"),
        (f"a: [1, {number}]", "a.1"),
        (f"{{b: {{{number}: x}}}}", f"b.{number}"),
    ):
        with complains(f"params.yaml: {key}: ", str(int(number.replace("_", "")))):
            parse_yaml(text, "params.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ("a is given twice", "line 1", "line 3")),
        ("s:\n  x: 1\n  x: 1\n", ("s.x is given twice",)),
        ("l: [{y: 1, y: 2}]", ("l.0.y is given twice",)),
        ("'a': 1\na: 2\n", ("a is given twice",)),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(
    complains: Any, text: str, words: tuple[str, ...]
) -> None:
    with complains(*words):
        parse_yaml(text, "params.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["a: 2024-13-45", "a: !!int x", "a: !!bool x", "a: !!python/object:os.system 1", "a: [",
     "a: 1\n---\nb: 2", "a: *unknown", "? [1, 2]\n: 3\na: {", "x: " + "[" * 5000, "x: \x00",
     "a: " + "9" * 5000],
)  # fmt: skip
def test_what_is_no_yaml_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "params.yaml")
    assert str(caught.value).startswith("params.yaml: ") and "\n" not in str(caught.value)


def test_aliases_may_lead_back_to_where_they_are(complains: Any) -> None:
    assert parse_yaml("a: &x {n: 1}\nb: *x\n", "params.yaml") == {"a": {"n": 1}, "b": {"n": 1}}
    parse_yaml("a: &x [*x]\n", "params.yaml")


@pytest.mark.parametrize(
    "line", ["epochs: 010", "epochs: 1:30", "epochs: yes", "epochs: 1\n  epochs: 2"]
)
def test_a_line_of_params_that_others_read_otherwise_is_refused(
    root: Path, tmp_path: Path, complains: Any, line: str
) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("\n  epochs: 10\n", f"\n  {line}\n"), encoding="utf-8")
    with complains("params.yaml: distill.epochs"):
        load_params(path)
