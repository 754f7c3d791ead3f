"""The diagram of README, and the tables of stages, say what dvc.yaml says."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.helpers import ROOT
from tests.helpers.pages import blocks

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def outputs(stage: dict[str, Any]) -> set[str]:
    """Paths that a stage writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def edges_of_dvc() -> set[tuple[str, str]]:
    """Pairs of stages of which the second one reads an output of the first one."""
    found = set()
    for reader, stage in STAGES.items():
        for dep in stage["deps"]:
            path = dep.replace("${teacher.path}", PARAMS["teacher"]["path"])
            for writer, other in STAGES.items():
                if any(f"{path}/".startswith(f"{output}/") for output in outputs(other)):
                    found.add((writer, reader))
    return found


def test_the_diagram_has_the_edges_of_dvc_yaml() -> None:
    (block,) = blocks(ROOT / "README.md", "mermaid")
    found = set()
    for left, right in re.findall(r"^ +([\w &]+?) (?:-->|-\..*?\.->) ([\w &]+)$", block.text, re.M):
        found |= {(a.strip(), b.strip()) for a in left.split("&") for b in right.split("&")}
    assert found == edges_of_dvc()


def test_the_diagram_has_every_stage_once() -> None:
    (block,) = blocks(ROOT / "README.md", "mermaid")
    assert re.findall(r'^ +(\w+)\["(\w+): ', block.text, re.M) == [(name, name) for name in STAGES]


def test_the_table_of_edits_names_the_stages_that_list_a_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder, cell in re.findall(
        r"^\| `((?:kdeov|pipeline)/\w+(?:\.py)?)` \| (.+) \|$", text, re.M
    ):
        listed = {
            name for name, stage in STAGES.items()
            if any(f"{folder}/".startswith(f"{dep}/") for dep in stage["deps"])
        }  # fmt: skip
        named = set(re.findall(r"`(\w+)`", cell)) & set(STAGES)
        assert named <= listed | {"report"}, folder
        assert "the evaluations" in cell or "every stage" in cell or named >= listed - {"report"}
