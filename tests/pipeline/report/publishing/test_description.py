"""The description of a run repeats it, and shows text from outside as text."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pipeline.config.params import Params, check_params
from pipeline.config.reading.yaml_file import parse_yaml
from pipeline.config.recipe import Origin, Recipe
from pipeline.report.publishing.description import _command, _use, markdown_text
from tests.helpers import ROOT

COMMIT = "3" * 40


def params(*changes: str) -> Params:
    recipe = Recipe.named("scenes").with_changes(None, changes)
    return check_params(parse_yaml(recipe.text, "scenes"), ROOT / "params.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>", "a | b", "*bold* __too__ `code`", "[a](javascript:alert(1))",
        "![a](http://example.org/a.png)", "[a][b] [b]: http://example.org", "# heading", "- list",
        "1. list", "1) list", "a\\b", "&amp; &lt;", "AT&T ~~gone~~", "zero_shot.class_names",
        "R@5 0.691 [0.676, 0.706]", "> quote", "_a_",
    ],
)  # fmt: skip
def test_names_from_outside_are_text(text: str) -> None:
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown_text(text))
    inner = html.strip().removeprefix("<p>").removesuffix("</p>")
    unescaped = inner
    for entity, mark in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        unescaped = unescaped.replace(entity, mark)
    assert unescaped == text and "<" not in inner


def test_the_command_gives_the_params_of_the_run() -> None:
    ran = params("distill.epochs=3", "prepare.captions_csv.table=it's $(my).csv", "embed.views=7")
    lines = _command(ran, {"git.commit": COMMIT, "git.dirty": "false"})
    block = "\n".join(lines[3:-1])
    first, *use, last = block.splitlines()
    assert (first, last) == (f"git checkout {COMMIT}", "dvc repro")
    words = shlex.split("\n".join(use).replace("\\\n", ""))
    assert words[:3] == ["kdeov", "use", "scenes"] and words[3::2] == ["--set"] * 3
    assert Origin.of(params(*words[4::2])) == Origin.of(ran)
    assert params(*words[4::2]) == ran


def test_a_fence_in_a_value_does_not_end_the_block() -> None:
    changed: Any = SimpleNamespace(recipe="scenes", changes={"zero_shot.templates": "```\n# a"})
    assert "\n# a" not in _use(changed)  # JSON has no line breaks
    lines = _command(params('prepare.captions_csv.table="a ``` b.csv"'), {})
    assert lines[2] == "````bash" and lines[-1] == "````"


def test_edits_are_said_and_an_experiment_is_its_own_command() -> None:
    dirty = "\n".join(_command(params(), {"git.commit": COMMIT, "git.dirty": "true"}))
    assert "differed" in dirty and "kdeov use scenes" in dirty
    found = "\n".join(_command(params(), {"git.commit": COMMIT, "dvc.exp_name": "wide-elk"}))
    assert "dvc exp apply wide-elk" in found and "kdeov use" not in found


def test_very_many_changes_are_cut_between_two_of_them() -> None:
    changed: Any = SimpleNamespace(
        recipe="scenes", changes={f"a.b{n}": "c" * 90 for n in range(99)}
    )
    command = _use(changed)
    assert len(command) < 3_300 and command.endswith("other params: see the page's params")
    assert command.count("--set") + int(command.split("# and ")[1].split()[0]) == 99
