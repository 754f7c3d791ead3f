"""A question that DVC experiments answer: variants of params with several seeds, and a table."""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from kdeov.errors import KdeovError
from pipeline.config.paths import Layout

logger = logging.getLogger(__name__)

STUDIES = Path(__file__).with_name("ablations.yaml")
SEED = "distill.seed"


@dataclass(frozen=True)
class Study:
    """What `studies.yaml` says of one question.

    Attributes:
        question: In a sentence.
        seeds: Of training; each variant runs with each.
        variants: Name of each, and its params as `dvc exp run -S` takes them.
        metrics: Name of each column, and where in the metrics it stands: file, who, which.
        stages: That are run, with all that they need.
        settings: Params of all variants, before their own.
    """

    question: str
    seeds: list[int]
    variants: dict[str, list[str]]
    metrics: dict[str, str]
    stages: list[str]
    settings: list[str] = field(default_factory=list)

    @classmethod
    def named(cls, name: str) -> Study:
        """A study of `studies.yaml`.

        Raises:
            KdeovError: There is none of this name.
        """
        studies = yaml.safe_load(STUDIES.read_text())
        if name not in studies:
            raise KdeovError(f"no study is called {name!r}; choose from {', '.join(studies)}")
        return cls(**studies[name])


def run_study(study: Study, layout: Layout) -> list[tuple[str, list[dict[str, float]]]]:
    """Runs every variant with every seed as a DVC experiment, then puts the workspace back.

    Experiments that DVC already has of this commit, under the names that this gives them, are not
    run again, so a study that was stopped goes on.

    Args:
        study: The question.
        layout: A checkout whose files are all committed.

    Returns:
        For each variant, the metrics of each seed.

    Raises:
        KdeovError: Files are not committed, or an experiment failed.
    """
    if _run(layout, "git", "status", "--porcelain", "--untracked-files=no"):
        raise KdeovError(
            f"{layout.root}: files differ from the last commit, and a study puts them back when it "
            "ends; commit them first"
        )
    known = _run(layout, "dvc", "exp", "list", "--name-only").split()
    rows = []
    try:
        for variant, changes in study.variants.items():
            found = []
            for seed in study.seeds:
                name = f"{variant}-seed-{seed}"
                if name in known:
                    logger.info("%s is there already", name)
                else:
                    logger.info("running %s", name)
                    # an experiment begins with the workspace, which the one before it has changed
                    _run(layout, "git", "reset", "--quiet", "--hard")
                    asked = (*study.settings, *changes, f"{SEED}={seed}")
                    params = dict(change.split("=", 1) for change in asked)  # the last one counts
                    settings = [f"-S{key}={value}" for key, value in params.items()]
                    command = ["dvc", "exp", "run", "--quiet", "-n", name, *settings]
                    _run(layout, *command, *study.stages)
                found.append(read_metrics(study, layout, name))
            rows.append((variant, found))
    finally:
        _run(layout, "git", "reset", "--quiet", "--hard")
        # what stages that were not run would make may be nowhere
        _run(layout, "dvc", "checkout", "--quiet", "--allow-missing")
    return rows


def read_metrics(study: Study, layout: Layout, experiment: str) -> dict[str, float]:
    """The columns of the table, from the metrics that git keeps of an experiment.

    Raises:
        KdeovError: A metric is not there.
    """
    head = _run(layout, "git", "rev-parse", "HEAD").strip()
    commit = f"refs/exps/{head[:2]}/{head[2:]}/{experiment}"  # where DVC keeps it
    values = {}
    for column, address in study.metrics.items():
        file, *path = address.split(".")
        found: Any = json.loads(_run(layout, "git", "show", f"{commit}:metrics/{file}.json"))
        (found,) = found.values() or [{}]  # one data set
        try:
            for name in path:
                found = found[name]
        except KeyError as error:
            raise KdeovError(
                f"metrics/{file}.json: has no {'.'.join(path)}; this data set cannot answer it"
            ) from error
        values[column] = float(found)
    return values


def study_table(study: Study, rows: list[tuple[str, list[dict[str, float]]]]) -> Table:
    """Means over the seeds, with the standard deviation."""
    table = Table(title=f"{study.question} Mean and deviation of {len(study.seeds)} seeds.")
    table.add_column("variant")
    for column in study.metrics:
        table.add_column(column, justify="right")
    for variant, found in rows:
        cells = []
        for column in study.metrics:
            values = [metrics[column] for metrics in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        table.add_row(variant, *cells)
    return table


def _run(layout: Layout, *command: str) -> str:
    # stages are run as `python -m`, so this environment's programs come first
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        command, cwd=layout.root, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise KdeovError(f"`{' '.join(command)}` failed: {lines[-1]}")
    return done.stdout
