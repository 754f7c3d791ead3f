"""Ablations: variants of params with several seeds, run as DVC experiments, and their table.

`dvc exp run`, also with `--temp` or `--queue`, stashes the workspace and resets it to the last
commit. So each variant runs in a clone under `work/ablations/`, and only its experiment, a git ref,
comes back to the checkout.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from kdeov.errors import ConfigError, DataError
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.config.reading.yaml_file import parse_yaml, read_yaml
from pipeline.console import stdout
from pipeline.runtime.lifetime import signal_at_parents_end
from pipeline.storage.files import writing_folder
from pipeline.tracking.target import URI_VARIABLE, TrackingTarget

logger = logging.getLogger(__name__)

ABLATIONS = Path(__file__).with_name("ablations.yaml")
SEED = "distill.seed"
Rows = list[tuple[str, list[dict[str, float]]]]


@dataclass(frozen=True)
class Ablation:
    """One question of `ablations.yaml`.

    Attributes:
        question: In a sentence; the title of the table.
        seeds: Values of `distill.seed`; each variant runs with each.
        variants: By name, the params that a variant changes, as `dvc exp run -S` takes them.
        metrics: By column of the table, the address of a metric: file, then keys below the data
            set, joined by dots.
        stages: Targets of `dvc exp run`.
        settings: Params of all variants; a variant's own come after, and win.
    """

    question: str
    seeds: list[int]
    variants: dict[str, list[str]]
    metrics: dict[str, str]
    stages: list[str]
    settings: list[str] = field(default_factory=list)

    @classmethod
    def named(cls, name: str) -> Ablation:
        """Reads an ablation of `ablations.yaml`.

        Raises:
            ConfigError: There is none of this name.
        """
        ablations = read_yaml(ABLATIONS)
        if name not in ablations:
            raise ConfigError(f"no ablation is called {name!r}; choose from {', '.join(ablations)}")
        return cls(**ablations[name])

    def params(self, variant: str, seed: int) -> dict[str, str]:
        """The params of a variant that differ from `params.yaml`, values as YAML."""
        changes = (*self.settings, *self.variants[variant], f"{SEED}={seed}")
        return dict(change.split("=", 1) for change in changes)  # the last one counts


def run_ablation(ablation: Ablation, layout: Layout) -> Rows:
    """Runs every variant with every seed as a DVC experiment of the last commit.

    An experiment of this commit with the same name and params is not run again, and an interrupted
    variant goes on where it was.

    Args:
        ablation: The question.
        layout: A git checkout. Its changes since the last commit take no part.

    Returns:
        For each variant, the metrics of each seed.

    Raises:
        ConfigError: The checkout has no commit, or an experiment of this name has other params.
        DataError: An experiment failed, or lacks a metric.
    """
    head = _output(layout.root, "git", "rev-parse", "HEAD")
    if changed := _output(layout.root, "git", "diff", "--name-only", "HEAD").split():
        logger.warning("the ablation runs the last commit, without changes of %s", changed)
    environment = _environment(layout)
    rows: Rows = []
    for variant in ablation.variants:
        rows.append((variant, []))
        for seed in ablation.seeds:
            name, params = f"{variant}-seed-{seed}", ablation.params(variant, seed)
            if (row := _experiment(layout, name, params)) is None:
                logger.info("%s: running", name)
                _run(layout, head, name, params, ablation.stages, environment)
                row = _experiment(layout, name, params)
            rows[-1][1].append(_metrics(ablation, row or {}, name))
    return rows


def ablation_table(ablation: Ablation, rows: Rows) -> Table:
    """The means over the seeds, with their standard deviations."""
    sign = "+/-" if stdout.options.ascii_only else "±"
    seeds = len(ablation.seeds)
    table = Table(title=f"{ablation.question} Mean {sign} deviation of {seeds} seeds.")
    table.add_column("variant")
    for column in ablation.metrics:
        table.add_column(column, justify="right")
    for variant, found in rows:
        cells = []
        for column in ablation.metrics:
            values = [metrics[column] for metrics in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} {sign} {spread:.3f}")
        table.add_row(variant, *cells)
    return table


def _run(
    layout: Layout,
    head: str,
    name: str,
    params: dict[str, str],
    stages: list[str],
    environment: dict[str, str],
) -> None:
    """Runs one experiment in a clone, which stays where it fails, and deletes the clone."""
    folder = layout.root / "work" / "ablations" / head[:7] / name
    clone = folder / layout.root.name
    if not folder.is_dir():
        with writing_folder(folder) as partial:
            _clone(layout.root, partial / layout.root.name)
    settings = [f"-S{key}={value}" for key, value in params.items()]
    command = ["dvc", "exp", "run", "-n", name, *settings, *stages]
    # logs go to standard error: standard output is for the table
    done = subprocess.run(
        command, cwd=clone, env=environment, stdout=2, preexec_fn=signal_at_parents_end()
    )
    if done.returncode:
        raise DataError(f"{name} failed; its log is above, and its files are in {clone}")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    _output(clone, "git", "push", "--quiet", "origin", f"{ref}:{ref}")
    shutil.rmtree(folder)


def _clone(root: Path, clone: Path) -> None:
    """Clones a checkout at its last commit, with its DVC cache, and its data beside it."""
    _output(root, "git", "clone", "--quiet", str(root), str(clone))
    cache = _output(root, "dvc", "cache", "dir")
    _output(clone, "dvc", "cache", "dir", "--local", str((root / cache).resolve()))
    _output(clone, "dvc", "checkout", "--quiet", "--allow-missing")
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


def _environment(layout: Layout) -> dict[str, str]:
    """Variables of a stage in a clone: MLflow is that of the checkout."""
    target = TrackingTarget.of(load_params(layout.params).tracking, layout)
    return {**_path(), URI_VARIABLE: target.uri}


def _experiment(layout: Layout, name: str, params: dict[str, str]) -> dict[str, Any] | None:
    """Params and metrics of an experiment of the last commit, None where there is none."""
    from dvc.api import exp_show

    for row in exp_show(str(layout.root)):
        if row.get("Experiment") != name:
            continue
        for key, value in params.items():
            if not _equal(row.get(key), parse_yaml(value, key)):
                raise ConfigError(
                    f"experiment {name} exists with {key}={row.get(key)}, not {value}; remove it "
                    f"with `dvc exp remove {name}`"
                )
        return row
    return None


def _equal(shown: Any, value: Any) -> bool:
    """Whether `exp_show` shows a value, of which it makes a number or a text."""
    try:
        return float(shown) == float(value)
    except (TypeError, ValueError):
        return str(shown) == str(value)


def _metrics(ablation: Ablation, row: dict[str, Any], name: str) -> dict[str, float]:
    values = {}
    for column, address in ablation.metrics.items():
        file, _, key = address.partition(".")
        key = f"{row.get('prepare.dataset')}.{key}"
        value = row.get(f"metrics/{file}.json:{key}", row.get(key))
        if value is None:
            raise DataError(f"{name}: metrics/{file}.json has no {key}; this data set lacks it")
        values[column] = float(value)
    return values


def _output(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_path(), capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ConfigError(f"`{' '.join(command)}` failed in {folder}: {lines[-1]}")
    return done.stdout.strip()


def _path() -> dict[str, str]:
    # stages are run as `python -m`, so this environment's programs come first
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path}
