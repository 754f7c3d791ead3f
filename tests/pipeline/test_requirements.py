"""requirements.lock installs on every Python that pyproject.toml allows."""

from __future__ import annotations

import importlib.metadata
import itertools
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def test_the_project_takes_these_pythons_and_no_other() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    others = ("3.10", "3.14")
    assert [v for v in (*PYTHONS, *others) if allowed.contains(f"{v}.0")] == list(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_takes_this_python(python: str) -> None:
    for name, version in pinned(python).items():
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # on another platform, or an environment without extras
        if found.version == version:
            allowed = SpecifierSet(found.metadata.get("Requires-Python") or "")
            assert allowed.contains(f"{python}.0"), (name, str(allowed))


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
