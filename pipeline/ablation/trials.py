"""Every variant of an ablation with every seed, as DVC experiments of the last commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdeov.errors import DataError
from pipeline.ablation.clones import Clones
from pipeline.ablation.question import Ablation
from pipeline.compare.evaluations import read_scores
from pipeline.compare.files import RevisionFiles, RunFiles
from pipeline.compare.git import experiments, git
from pipeline.config.paths import Layout
from pipeline.config.reading.yaml_file import parse_yaml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """A variant with a seed.

    Attributes:
        variant: Name of the variant.
        seed: Value of `distill.seed`.
        files: Files of the experiment.
        params: Its params.
        scores: Metrics of its data set, by the name of the evaluation.
        metrics: The metric of each column of the table.
    """

    variant: str
    seed: int
    files: RunFiles
    params: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    metrics: dict[str, float]


def run_ablation(ablation: Ablation, layout: Layout) -> list[Trial]:
    """Runs the experiments that the last commit does not have yet.

    An experiment that was interrupted goes on where it was. Two processes may run one ablation: an
    experiment that the other one runs is waited for.

    Args:
        ablation: The question.
        layout: A git checkout. Its changes since the last commit take no part.

    Returns:
        All trials: those of the first variant first, in the order of seeds.

    Raises:
        ConfigError: The checkout has no commit, or an experiment of this name has other params.
        DataError: An experiment failed, or lacks a metric.
    """
    head = git(layout.root, "rev-parse", "HEAD")
    if changed := git(layout.root, "diff", "--name-only", "HEAD").split():
        logger.warning("the ablation runs the last commit, without changes of %s", changed)
    ablation.require_data(layout.root)
    clones = Clones(layout, head, ablation.recipe_params())
    wanted = [(variant, seed) for variant in ablation.variants for seed in ablation.seeds]
    trials: list[Trial] = []
    durations: list[float] = []  # of experiments, in seconds
    for number, (variant, seed) in enumerate(wanted, 1):
        name = ablation.experiment(variant, seed)
        with clones.lock(name):
            if (trial := _finished(ablation, layout, head, variant, seed)) is None:
                logger.info(
                    "%s: running, %d of %d%s",
                    name,
                    number,
                    len(wanted),
                    _left(durations, len(wanted) - number + 1),
                )
                start = time.monotonic()
                clones.run(name, ablation.params(variant, seed), ablation.stages)
                durations.append(time.monotonic() - start)
                trial = _finished(ablation, layout, head, variant, seed)
            if trial is None:
                raise DataError(
                    f"{name}: DVC made no experiment of this name; run the ablation again"
                )
            clones.remove(name)
        trials.append(trial)
    return trials


def _left(durations: list[float], count: int) -> str:
    """The time that experiments will take, after those that are done."""
    if not durations:
        return ""
    return f", {sum(durations) / len(durations) * count / 60:.0f} min left"


def _finished(
    ablation: Ablation, layout: Layout, head: str, variant: str, seed: int
) -> Trial | None:
    """The trial of an experiment that the checkout has; None where it has none.

    Raises:
        ConfigError: It has other params.
        DataError: It lacks a metric.
    """
    name = ablation.experiment(variant, seed)
    commit = experiments(layout.root, head).get(name)
    if commit is None:
        return None
    files = RevisionFiles(layout.root, commit, name)
    params = parse_yaml(files.read("params.yaml") or b"{}", files.where("params.yaml"))
    ablation.require_params(name, params, variant, seed)
    dataset = params["prepare"]["dataset"]
    evaluations = dict.fromkeys(address.partition(".")[0] for address in ablation.metrics.values())
    scores = {evaluation: read_scores(files, evaluation, dataset) for evaluation in evaluations}
    return Trial(
        variant, seed, files, params, scores, dict(_metrics(ablation, scores, name, dataset))
    )


def _metrics(
    ablation: Ablation, scores: dict[str, dict[str, Any]], name: str, dataset: str
) -> Iterator[tuple[str, float]]:
    for column, address in ablation.metrics.items():
        file, *keys = address.split(".")
        value: Any = scores[file]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            key = ".".join((dataset, *keys))
            raise DataError(f"{name}: metrics/{file}.json has no {key}; this data set lacks it")
        yield column, float(value)
