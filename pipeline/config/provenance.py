"""Provenance of a run: its fingerprint, the digest of its code, and the state of git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError
from pipeline.config.reading.yaml_file import parse_yaml, read_yaml
from pipeline.storage.files import digest, sha256_file

OUTPUTS = ("outs", "metrics", "plots")  # keys of a stage in dvc.yaml
LENGTH = 16  # hexadecimal digits
PACKAGES = ("kdeov", "pipeline", "stages")
EXPERIMENT_VARIABLE = "DVC_EXP_NAME"  # DVC sets it in the stages of an experiment
CODE_SUFFIXES = (".py", ".json", ".yaml", ".j2")


def code_digest(root: Path, stage: str) -> str:
    """The digest of the code that `dvc.yaml` lists for a stage, as it is now.

    Raises:
        ConfigError: `dvc.yaml` is missing or lists no such stage.
    """
    deps = [dep for dep in stage_of_dvc(root, stage)["deps"] if is_code(dep)]
    files = sorted(str(path.relative_to(root)) for dep in deps for path in code_files(root / dep))
    return digest({name: sha256_file(root / name) for name in files})


def is_code(dep: str) -> bool:
    """Whether a dep of `dvc.yaml` is code of this project, and no data."""
    return dep.split("/")[0] in PACKAGES


def code_files(dep: Path) -> Iterator[Path]:
    """The code files of a dep: the file itself, or those below a folder, sorted, without caches
    and prose.
    """
    if dep.is_file():
        yield dep
        return
    for path in sorted(dep.rglob("*")):
        if path.suffix in CODE_SUFFIXES and "__pycache__" not in path.parts and path.is_file():
            yield path


def stage_of_dvc(root: Path, stage: str) -> dict[str, Any]:
    """The entry of a stage in `dvc.yaml`.

    Raises:
        ConfigError: `dvc.yaml` is missing or lists no such stage.
    """
    path = root / "dvc.yaml"
    try:
        return read_yaml(path)["stages"][stage]
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: lists no stage {stage}; run in a checkout of KDEOV") from error


def fingerprint(**ingredients: Any) -> str:
    """The name of a run: a digest of all that its numbers depend on, 16 hexadecimal digits.

    Args:
        ingredients: Values that JSON can hold.
    """
    return digest(ingredients)[:LENGTH]


def git_state(root: Path) -> dict[str, str]:
    """The commit of a checkout, and whether what results depend on differs from it; empty outside
    of git.

    Those are the tracked files of the code (`PACKAGES`), `dvc.yaml` and `params.yaml`; neither
    pages and tests, nor files that a stage of `dvc.yaml` writes, wherever they lie. In a DVC
    experiment `params.yaml` does not count either: DVC changes it, and commits it with the results.
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

    inputs = [*PACKAGES, "dvc.yaml"]
    if EXPERIMENT_VARIABLE not in os.environ:
        inputs.append("params.yaml")
    written = [f":(exclude,literal){path}" for path in _written_by_stages(root)]
    try:
        # no lock: several stages may ask at once
        command = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--")
        dirty = git(*command, *inputs, *written) != ""
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": str(dirty).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _written_by_stages(root: Path) -> tuple[str, ...]:
    """What the stages of `dvc.yaml` write, relative to it; nothing where there is no such file."""
    try:
        return _outputs((root / "dvc.yaml").read_bytes())
    except (OSError, ConfigError):
        return ()


@lru_cache
def _outputs(text: bytes) -> tuple[str, ...]:
    """The outputs of the stages of a `dvc.yaml`; parsing it takes a quarter of a second."""
    stages = (parse_yaml(text, "dvc.yaml") or {}).get("stages", {}).values()
    entries = [entry for stage in stages for key in OUTPUTS for entry in stage.get(key, ())]
    return tuple(next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries)
