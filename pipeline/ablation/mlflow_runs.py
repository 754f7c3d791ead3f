"""An ablation in MLflow: a run with its table and figure, above the runs of its trials."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.ablation.figure import ablation_figure
from pipeline.ablation.gains import Outcome
from pipeline.ablation.table import markdown_table
from pipeline.ablation.trials import Trial
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.report.headline import HEADLINE
from pipeline.report.results import MLFLOW_GROUPS
from pipeline.tracking.compat import DESCRIPTION_TAG, PARENT_TAG
from pipeline.tracking.database import locked
from pipeline.tracking.errors import tracking_errors
from pipeline.tracking.mlflow_run import FINGERPRINT_TAG, log_params
from pipeline.tracking.tags import set_tags
from pipeline.tracking.target import TrackingTarget, request_limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

ABLATION_TAG = "kdeov.ablation"  # of the run of a question: its name
VARIANT_TAG = "kdeov.variant"  # of the run of a trial: the names of question and variant
MAX_CHILDREN = 1000  # of a question


def show_in_mlflow(outcome: Outcome, trials: Sequence[Trial], layout: Layout) -> None:
    """Puts the runs of an ablation below one run, which has the table and the figure as artifacts.
    If MLflow cannot be written, logs a warning instead: the table is in the documents.

    Args:
        outcome: The outcome.
        trials: Its trials.
        layout: The checkout.

    Raises:
        ConfigError: `tracking.uri` is wrong.
    """
    target = TrackingTarget.of(load_params(layout.params).tracking, layout)
    try:
        with locked(layout.tracking_lock), request_limits(timeout_s=30, max_retries=2):
            client = target.client()
            experiment = target.experiment_id(client)
            parent = _parent(client, experiment, outcome)
            target.require_own_files(parent.info.artifact_uri)
            _nest(client, experiment, parent, outcome, trials)
            client.log_text(parent.info.run_id, f"{markdown_table(outcome)}\n", "table.md")
            svg = ablation_figure(outcome).decode()
            client.log_text(parent.info.run_id, svg, "figure.svg")
            client.set_terminated(parent.info.run_id, "FINISHED")
    except tracking_errors() as error:
        reason, cure = target.explain(error)
        logger.warning(
            "MLflow at %s does not show the ablation (%s); %s, then run `kdeov ablation %s` again",
            target.address, reason, cure, outcome.ablation.name,
        )  # fmt: skip


def _parent(client: MlflowClient, experiment: str, outcome: Outcome) -> Run:
    """The run of a question; made if it is missing."""
    ablation = outcome.ablation
    runs = client.search_runs(
        [experiment],
        f"tags.`{ABLATION_TAG}` = '{ablation.name}'",
        order_by=["attributes.start_time ASC"],
    )
    if runs:
        parent = runs[0]
    else:
        tags = {ABLATION_TAG: ablation.name}
        parent = client.create_run(experiment, run_name=f"ablation {ablation.name}", tags=tags)
    note = f"**{ablation.question}**\n\n{markdown_table(outcome)}"
    set_tags(client, parent, {DESCRIPTION_TAG: note})
    return parent


def _nest(
    client: MlflowClient,
    experiment: str,
    parent: Run,
    outcome: Outcome,
    trials: Sequence[Trial],
) -> None:
    """Makes the runs of the trials children of the parent; children of earlier commits go."""
    parent_id, now = parent.info.run_id, set()
    for trial in trials:
        run = _run_of(client, experiment, trial)
        now.add(run.info.run_id)
        variant = f"{outcome.ablation.name}/{trial.variant}"
        tags = {PARENT_TAG: parent_id, VARIANT_TAG: variant}
        for name, value in tags.items():
            if run.data.tags.get(name) != value:
                client.set_tag(run.info.run_id, name, value)
        for column, value in trial.metrics.items():
            name = metric_name(outcome.ablation.metrics[column])
            if run.data.metrics.get(name) != value:
                client.log_metric(run.info.run_id, name, value)
        if run.info.status != "FINISHED":
            client.set_terminated(run.info.run_id, "FINISHED")
    old = client.search_runs(
        [experiment], f"tags.`{PARENT_TAG}` = '{parent_id}'", max_results=MAX_CHILDREN
    )
    for run in old:
        if run.info.run_id not in now:
            client.delete_tag(run.info.run_id, PARENT_TAG)


def metric_name(address: str) -> str:
    """The name in MLflow of an ablation's metric: that of the headline, where it is one."""
    file, *keys = address.split(".")
    name = "_".join(key for key in keys if key != "student")
    plain = f"{MLFLOW_GROUPS.get(file, file)}/{name}"
    return next((shown for shown, metric in HEADLINE.items() if metric == plain), plain)


def _run_of(client: MlflowClient, experiment: str, trial: Trial) -> Run:
    """The run of a trial's fingerprint, which training logged; made if it is missing."""
    fingerprint = next(
        (str(s["fingerprint"]) for s in trial.scores.values() if "fingerprint" in s),
        trial.files.label,
    )
    runs = client.search_runs([experiment], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")
    if runs:
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id))
    run = client.create_run(
        experiment, run_name=trial.files.label, tags={FINGERPRINT_TAG: fingerprint}
    )
    log_params(client, run, {"distill": trial.params.get("distill", {})})
    return run
