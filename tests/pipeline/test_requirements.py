"""One promise of Pythons, everywhere it stands; requirements.lock installs on each of them."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.helpers import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
ALLOWED = SpecifierSet(PROJECT["requires-python"])
PYTHONS = tuple(f"3.{minor}" for minor in range(100) if ALLOWED.contains(f"3.{minor}.0"))
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
]


def environment(python: str) -> dict[str, str]:
    """A Linux machine with this Python."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
    }


def pinned(python: str) -> dict[str, str]:
    """Versions that the lock gives to this Python, by name."""
    return {
        canonicalize_name(line.name): str(line.specifier).removeprefix("==")
        for line in LOCK
        if line.marker is None or line.marker.evaluate(environment(python))
    }


def test_the_lock_holds_names_versions_and_markers_alone() -> None:
    assert LOCK
    for line in LOCK:
        assert line.url is None and not line.extras, line
        assert [spec.operator for spec in line.specifier] == ["=="], line


def test_the_promise_is_three_pythons_that_live() -> None:
    assert PYTHONS == ("3.11", "3.12", "3.13")
    assert not ALLOWED.contains("3.10.99") and not ALLOWED.contains("3.14.0")
    for python in PYTHONS:
        assert ALLOWED.contains(f"{python}.99")


def test_tools_check_the_code_for_the_oldest_python() -> None:
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{OLDEST.replace('.', '')}"
    assert SETTINGS["tool"]["mypy"]["python_version"] == OLDEST


def test_the_workflow_runs_the_tests_on_both_ends_and_nothing_on_another_python() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]["python"]
    assert {OLDEST, NEWEST} <= set(matrix) <= set(PYTHONS)
    steps = [step for job in jobs.values() for step in job["steps"]]
    used = {step["with"]["python-version"] for step in steps if "setup-python" in str(step)}
    assert used - {"${{ matrix.python }}"} <= set(PYTHONS)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_promise_these_pythons(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"Python {', '.join(PYTHONS[:-1])} or {NEWEST}" in text
    named = re.findall(r"Python (3\.\d+)", text)
    assert set(named) <= set(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_takes_the_whole_range_of_this_python(python: str) -> None:
    compared = 0
    for name, version in pinned(python).items():
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # on another platform, or an environment without extras
        if found.version == version:
            compared += 1
            takes = SpecifierSet(found.metadata.get("Requires-Python") or "")
            for patch in (0, 99):
                assert takes.contains(f"{python}.{patch}"), (name, version, str(takes))
    assert compared > len(LOCK) // 2  # else the environment is not that of the lock


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_all_that_the_project_and_its_extras_ask_for(python: str) -> None:
    asked = [
        *PROJECT["dependencies"],
        *itertools.chain(*PROJECT["optional-dependencies"].values()),
    ]
    locked = pinned(python)
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(locked.get(name, "0")), requirement
