"""Small checkouts of the project, with the whole pipeline run once, as a user would run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.shared import made_once

SMALL: dict[str, Any] = {
    "prepare": {"samples_per_shard": 40, "scenes": {"train": 112, "val": 32, "test": 64}},
    "teacher": {"tiny": {"epochs": 2, "batch_size": 28}},
    "embed": {"views": 2, "regions": {"count": 2}},
    "distill": {
        "epochs": 3,
        "global_batch_size": 28,
        "micro_batch_size": 14,
        "num_streams": 14,
        "image_size": 32,
    },
    "train_boxes": {
        "epochs": 2,
        "global_batch_size": 28,
        "micro_batch_size": 14,
        "num_streams": 14,
        "image_size": 64,
    },
    "export": {"calibration_images": 16, "background_images": 40},
    "efficiency": {"repeats": 2, "batch_size": 4},
    "report": {"examples": 4},
    "cluster": {"mode": "inline"},
}


TIMEOUT_S = 1500  # of a command, which takes minutes beside busy processes; pytest's is 1,800


@dataclass(frozen=True)
class Checkout:
    """A copy of the project with its own params and git history."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables of commands in the checkout: this interpreter's programs come first,
        and `kdeov` and `python -m` import the checkout's own code.

        A folder without code uses that of the tests.
        """
        programs = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            # comes before the path of an editable install, which may name another checkout
            "PYTHONPATH": str(self.path if (self.path / "pipeline").is_dir() else ROOT),
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t.invalid",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t.invalid",
        }  # fmt: skip

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in the checkout."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            encoding="utf-8",
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def stage(self, name: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a stage script as `dvc.yaml` does."""
        return self.run("python", "-m", f"stages.{name}", check=check)

    def change(self, changes: dict[str, Any]) -> None:
        """Changes params.yaml."""
        path = self.path / "params.yaml"
        path.write_text(
            yaml.safe_dump(merged(yaml.safe_load(path.read_text(encoding="utf-8")), changes)),
            encoding="utf-8",
        )


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second one winning."""
    result = dict(base)
    for key, value in changes.items():
        inner = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if inner else value
    return result


@pytest.fixture(scope="session")
def new_checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Checkout]:
    """Makes small checkouts that nothing has run in yet."""

    def make() -> Checkout:
        return small_checkout(root, tmp_path_factory.mktemp("checkout"))

    return make


@pytest.fixture(scope="session")
def reproduced(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A small checkout after `dvc repro`."""

    def make(folder: Path) -> None:
        checkout = small_checkout(root, folder)
        checkout.run("dvc", "repro")
        checkout.run("git", "add", "-A")
        checkout.run("git", "commit", "-qm", "results")

    path = tmp_path_factory.mktemp("reproduced") / "checkout"
    shutil.copytree(made_once("reproduced", make), path, symlinks=True)
    return Checkout(path)


def small_checkout(root: Path, path: Path) -> Checkout:
    """A committed copy of the project with params `SMALL`."""
    for name in ("kdeov", "pipeline", "stages"):
        shutil.copytree(root / name, path / name)
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".rayignore"):
        shutil.copy(root / name, path / name)
    (path / ".dvc").mkdir()
    shutil.copy(root / ".dvc" / "config", path / ".dvc" / "config")
    checkout = Checkout(path)
    checkout.change(SMALL)
    checkout.run("git", "init", "-q")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "start")
    return checkout
