"""An environment that holds what `pip install kdeov` installs, and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import ROOT


@dataclass(frozen=True)
class RuntimeInstall:
    """A virtual environment.

    Attributes:
        path: Its folder.
        distributions: Names of what is installed beside kdeov.
        bytes: Of the files of those.
    """

    path: Path
    distributions: frozenset[str]
    bytes: int

    def run(
        self, *arguments: object, cwd: Path, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs its `kdeov`, with a cache of its own."""
        return self.call(self.path / "bin" / "kdeov", *arguments, cwd=cwd, stdin=stdin)

    def call(
        self, *command: object, cwd: Path, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command without the packages of the tests."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**environment, "XDG_CACHE_HOME": str(self.path / "cache")},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            encoding="utf-8",
        )


def runtime_install(folder: Path) -> RuntimeInstall:
    """Makes the environment: distributions that are installed here are linked, kdeov is built and
    installed by pip. Needs no network.
    """
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}, scheme="posix_prefix")
    )
    names, size = _closure(), 0
    for name in names:
        for file in importlib.metadata.distribution(name).files or ():
            if ".." in file.parts or "__pycache__" in file.parts:
                continue  # programs, and what any run compiles
            source, target = Path(str(file.locate())), site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
            size += source.stat().st_size
    _install_kdeov(folder)
    return RuntimeInstall(folder / "venv", frozenset(names), size)


def _install_kdeov(folder: Path) -> None:
    project = folder / "project"
    project.mkdir()
    for name in ("kdeov", "pipeline", "stages"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python"),
            "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", str(project),
        ],
        check=True,
        timeout=300,
    )  # fmt: skip


def _closure() -> set[str]:
    """Names of the runtime's dependencies, and of theirs, on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [(Requirement(line), "") for line in project["dependencies"]]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in found:
                found.add((name, wanted))
                needs = importlib.metadata.distribution(name).requires or ()
                waiting += [(Requirement(line), wanted) for line in needs]
    return {name for name, _ in found}
