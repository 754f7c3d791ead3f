"""The name of a run: a digest of everything that its numbers depend on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdeov.errors import KdeovError
from pipeline.storage.files import digest, sha256_file

INPUTS = (".", ":(exclude)dvc.lock", ":(exclude)metrics")  # pathspecs of git
LENGTH = 16  # hexadecimal digits
PACKAGES = ("kdeov", "pipeline", "stages")
CODE_SUFFIXES = (".py", ".json", ".yaml", ".j2")


def code_digest(root: Path, stage: str) -> str:
    """A digest of the code that `dvc.yaml` lists for a stage, taken when the stage starts.

    Raises:
        KdeovError: `dvc.yaml` is missing or lists no such stage.
    """
    deps = [dep for dep in stage_of_dvc(root, stage)["deps"] if is_code(dep)]
    files = sorted(str(path.relative_to(root)) for dep in deps for path in code_files(root / dep))
    return digest({name: sha256_file(root / name) for name in files})


def is_code(dep: str) -> bool:
    """Whether a dep of `dvc.yaml` is code of this project, and no data."""
    return dep.split("/")[0] in PACKAGES


def code_files(dep: Path) -> Iterator[Path]:
    """The code files of a dep: itself, or those below it in order, without caches and prose."""
    if dep.is_file():
        yield dep
        return
    for path in sorted(dep.rglob("*")):
        if path.suffix in CODE_SUFFIXES and "__pycache__" not in path.parts and path.is_file():
            yield path


def stage_of_dvc(root: Path, stage: str) -> dict[str, Any]:
    """What `dvc.yaml` says of a stage.

    Raises:
        KdeovError: It is missing or lists no such stage.
    """
    try:
        return yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise KdeovError(
            f"{root / 'dvc.yaml'}: lists no stage {stage}; run in a checkout of KDEOV"
        ) from error


def fingerprint(**ingredients: Any) -> str:
    """Sixteen hexadecimal digits of the ingredients' canonical JSON."""
    return digest(ingredients)[:LENGTH]


def git_state(root: Path) -> dict[str, str]:
    """Commit, and whether files differ from it; empty outside of git.

    `dvc.lock` and `metrics/` do not count: `dvc repro` itself writes them.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", *INPUTS) != ""
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": str(dirty).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {}
