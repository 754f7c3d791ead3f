"""How MLflow's page opens: on the table of runs, with columns that are chosen already.

MLflow reads a view from a tag of the experiment, where the page's address names it. People change
columns as ever; their choice stays in their browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.tracking.compat import (
    EXPERIMENT_KIND,
    EXPERIMENT_KIND_TAG,
    SHARED_VIEW_KEY,
    SHARED_VIEW_TAG,
    VIEW,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_COLUMNS = ("teacher", "backbone", "dataset")
FIRST_COLUMNS = ("attributes.`Run Name`",)
UI_HOST = "kdeov.localhost"
"""Name of this machine in addresses of `kdeov ui`. Browsers take every name below `localhost` for
this machine, and MLflow opens its assistant on `localhost` and `127.0.0.1` alone.
"""


def set_view(client: MlflowClient, experiment: str, metrics: Sequence[str]) -> None:
    """Writes the view of an experiment, where it has another one or none.

    Args:
        client: MLflow's client.
        experiment: Id of the experiment.
        metrics: Names of the metrics that are columns, in order.
    """
    columns = [f"tags.`{name}`" for name in TAG_COLUMNS]
    columns += [f"metrics.`{name}`" for name in metrics]
    view = json.dumps({"selectedColumns": columns, "columnOrder": [*FIRST_COLUMNS, *columns]})
    wanted = {EXPERIMENT_KIND_TAG: EXPERIMENT_KIND, SHARED_VIEW_TAG: view}
    tags = client.get_experiment(experiment).tags
    for name, value in wanted.items():
        if tags.get(name) != value:
            client.set_experiment_tag(experiment, name, value)


def runs_page(base: str, experiment: str | None) -> str:
    """The address of the table of runs.

    Args:
        base: Address of MLflow's server.
        experiment: Id of the experiment; None for the list of experiments.
    """
    if experiment is None:
        return f"{base}/#/experiments?{VIEW}"
    return f"{base}/#/experiments/{experiment}/runs?{SHARED_VIEW_KEY}&{VIEW}"
