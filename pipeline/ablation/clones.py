"""A DVC experiment that runs in a clone of the checkout under `work/ablations/`.

`dvc exp run` stashes the workspace and resets it to the last commit, also with `--temp` and
`--queue`. A clone keeps the checkout as it is. It also keeps checkpoints and half-made caches of an
experiment that was killed, so that it goes on; a task of DVC's queue begins again in a new folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeov.errors import ConfigError, DataError
from pipeline.compare.git import EXPERIMENTS, experiments, git
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.config.reading.yaml_file import read_yaml
from pipeline.runtime.lifetime import runs, signal_at_parents_end
from pipeline.storage.files import flock, write_text, writing_folder
from pipeline.tracking.target import URI_VARIABLE, TrackingTarget


@dataclass(frozen=True)
class Clones:
    """Clones of the last commit of a checkout, one an experiment.

    Attributes:
        layout: The checkout.
        head: Its last commit.
        base: Text of `params.yaml` that every experiment begins with; None for that of the commit.
    """

    layout: Layout
    head: str
    base: str | None = None

    def folder(self, name: str) -> Path:
        """The folder of an experiment."""
        return self.layout.root / "work" / "ablations" / self.head[:7] / name

    def lock(self, name: str) -> Any:
        """A lock that one process holds while it runs an experiment."""
        folder = self.folder(name)
        return flock(folder.with_name(f"{name}.lock"))

    def run(self, name: str, params: Mapping[str, str], stages: list[str]) -> None:
        """Runs an experiment and brings its ref to the checkout. One that was killed goes on in its
        clone.

        Args:
            name: Name of the experiment.
            params: Params that it changes, values as YAML.
            stages: Targets.

        Raises:
            DataError: The experiment failed. Its clone stays.
        """
        folder, root = self.folder(name), self.layout.root
        clone = folder / root.name
        if not folder.is_dir():
            with writing_folder(folder) as partial:
                self._clone(partial / root.name)
        drop_locks_of_ended(clone)
        if self.base is not None:  # again: a killed `dvc exp run` may have stashed it
            write_text(clone / "params.yaml", self.base)
            _link_data(root, clone)
        if name not in experiments(clone, self.head):  # else killed before it was pushed
            self._reproduce(clone, name, params, stages)
        ref = f"{EXPERIMENTS}{self.head[:2]}/{self.head[2:]}/{name}"
        git(clone, "push", "--quiet", "origin", f"{ref}:{ref}")

    def _reproduce(
        self, clone: Path, name: str, params: Mapping[str, str], stages: list[str]
    ) -> None:
        settings = [f"-S{key}={value}" for key, value in params.items()]
        command = ["dvc", "exp", "run", "-n", name, *settings, *stages]
        # logs go to standard error: standard output is for the table
        done = subprocess.run(
            command,
            cwd=clone,
            env=self._environment(),
            stdout=2,
            preexec_fn=signal_at_parents_end(),
        )
        if done.returncode:
            raise DataError(f"{name} failed; its log is above, and its files are in {clone}")

    def remove(self, name: str) -> None:
        """Deletes the clone of an experiment that the checkout has."""
        if self.folder(name).is_dir():
            shutil.rmtree(self.folder(name))

    def _clone(self, clone: Path) -> None:
        """Clones a checkout at its last commit, with its DVC cache, and its data beside it."""
        root = self.layout.root
        git(root, "clone", "--quiet", str(root), str(clone))
        cache = _dvc(root, "cache", "dir")
        _dvc(clone, "cache", "dir", "--local", str((root / cache).resolve()))
        _dvc(clone, "checkout", "--quiet", "--allow-missing")
        _link_data(root, clone)

    def _environment(self) -> dict[str, str]:
        """Variables of a stage in a clone: MLflow is that of the checkout."""
        target = TrackingTarget.of(load_params(self.layout.params).tracking, self.layout)
        return {**_with_programs(), URI_VARIABLE: target.uri}


def drop_locks_of_ended(clone: Path) -> None:
    """Deletes DVC's lock file of a clone if none of its holders runs. DVC does so itself, but takes
    a process for a running one if nobody has waited for it, as in containers without an init.
    """
    path = clone / ".dvc" / "tmp" / "rwlock"
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text(encoding="utf-8")
        holders = {int(number) for number in re.findall(r'"pid": *(\d+)', text)}
        if not any(map(runs, holders)):
            path.unlink()


def _link_data(root: Path, clone: Path) -> None:
    """Links what git does not have of the data that the params of a clone name."""
    for path in _paths(read_yaml(clone / "params.yaml")):
        _link(root, clone, path)


def _paths(values: Any) -> Iterator[Path]:
    """The texts in params, as paths."""
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _paths(value)
    elif isinstance(values, str):
        yield Path(values)


def _link(root: Path, clone: Path, path: Path) -> None:
    """Links what git does not have of the data at a path, in the checkout or beside it."""
    if path.is_absolute() or path.parts[:1] == ("out",) or not (root / path).exists():
        return
    place = Path()
    for part in path.parts[:1] if path.parts[:2] == ("..", "..") else path.parts:
        place /= part
        if not (clone / place).exists():
            (clone / place).symlink_to((root / place).resolve())
            return


def _dvc(folder: Path, *arguments: str) -> str:
    """What a command of DVC prints.

    Raises:
        ConfigError: It fails.
    """
    done = subprocess.run(
        ["dvc", *arguments],
        cwd=folder,
        env=_with_programs(),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ConfigError(f"`dvc {' '.join(arguments)}` failed in {folder}: {lines[-1]}")
    return done.stdout.strip()


def _with_programs() -> dict[str, str]:
    # stages are run as `python -m`, so this environment's programs come first
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path}
