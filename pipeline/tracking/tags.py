"""The tags of a run: what people filter the table of runs by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.artifacts.run import RunRecord
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import git_state
from pipeline.config.recipe import Origin
from pipeline.storage.files import digest
from pipeline.tracking.compat import DESCRIPTION_TAG, SOURCE_NAME_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ON_GPU = "on_gpu"
"""Column of a history: 1 where a GPU trained, else 0."""
DESCRIBED_TAG = "kdeov.described"  # digest of the description that was written last
DVC_VARIABLES = ("STAGE", "EXP_NAME", "EXP_BASELINE_REV")  # DVC sets them, with `DVC_` before


def run_tags(params: Params, paths: Layout, record: RunRecord) -> dict[str, str]:
    """Tags with a run's origin: recipe, data set, teacher, backbone, git commit and DVC experiment.

    Args:
        params: Params of the checkout.
        paths: Paths of the checkout.
        record: The run.
    """
    dvc = {
        f"dvc.{name.lower()}": os.environ[f"DVC_{name}"]
        for name in DVC_VARIABLES
        if f"DVC_{name}" in os.environ
    }
    return {
        SOURCE_NAME_TAG: "stages/distill.py",
        "recipe": Origin.of(params).recipe,
        "dataset": record.dataset,
        "teacher": record.teacher,
        "backbone": record.params["distill"]["backbone"],
        **git_state(paths.root),
        **dvc,
    }


def machine_tags(epoch: Mapping[str, float]) -> dict[str, str]:
    """Tags with the machines of a run: those of an epoch of its history, where it has them."""
    tags = {}
    if "workers" in epoch:
        tags["world_size"] = str(int(epoch["workers"]))
    if ON_GPU in epoch:
        tags["device"] = "cuda" if epoch[ON_GPU] else "cpu"
    return tags


def set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Sets the tags that a run lacks or has with another value. A description that a person wrote
    or edited on the run's page stays.
    """
    from mlflow.entities import RunTag

    if (text := tags.get(DESCRIPTION_TAG)) is not None:
        rest = {key: value for key, value in tags.items() if key != DESCRIPTION_TAG}
        own = {DESCRIPTION_TAG: text, DESCRIBED_TAG: digest(text)}
        tags = {**rest, **({} if _is_described_by_hand(run) else own)}
    changed = [RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def _is_described_by_hand(run: Run) -> bool:
    text, last = run.data.tags.get(DESCRIPTION_TAG, ""), run.data.tags.get(DESCRIBED_TAG)
    if not text.strip():
        return False
    if last is None:  # nothing was published yet, or by a version that kept no digest
        return not (text.startswith("**") and "\n|---" in text)
    return bool(last != digest(text))
