"""A checkout for the doctor to examine, and facts of machines that do not exist."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import yaml
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check
from pipeline.doctor.node import NodeFacts

GB = 10**9


def git(layout: Layout, *arguments: str) -> None:
    author = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
    subprocess.run(["git", *author, *arguments], cwd=layout.root, check=True)


def change(layout: Layout, **sections: dict[str, Any]) -> None:
    """Changes params.yaml, and commits it."""
    values = yaml.safe_load(layout.params.read_text(encoding="utf-8"))
    for section, keys in sections.items():
        values[section] |= keys
    layout.params.write_text(yaml.safe_dump(values), encoding="utf-8")
    git(layout, "commit", "-qam", "change")


def doctor(*arguments: str) -> tuple[int, list[str]]:
    """Exit status, and the lines of errors and warnings."""
    result = CliRunner().invoke(app, ["doctor", "--quick", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    lines = result.output.splitlines()
    return result.exit_code, [line for line in lines if line.startswith(("error", "warning"))]


def node(name: str = "a", **changes: Any) -> NodeFacts:
    """Facts of a sound machine, with changes."""
    facts = NodeFacts(
        name, {"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"}, "c0de", cpus=4,
        shared_memory=8 * GB,
    )  # fmt: skip
    return replace(facts, **changes)


def verdicts(checks: list[Check]) -> dict[str, str]:
    """Verdict by name."""
    return {check.name: check.verdict for check in checks}
