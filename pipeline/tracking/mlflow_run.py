"""The one MLflow run that belongs to a fingerprint, and epochs reported while they happen.

Files are the truth; MLflow shows them. Where it cannot be reached, training goes on; what it missed
is told with a later epoch, or by `kdeov publish`. Only the process that drives training talks to
MLflow, never a worker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.run import RunRecord
from pipeline.config.params import flatten
from pipeline.config.paths import Layout
from pipeline.config.provenance import git_state
from pipeline.tracking.target import TrackingTarget, one_line, patience, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

EpochMetrics = dict[str, float]

FINGERPRINT = "kdeov.fingerprint"
AT_ONCE = 1000  # metrics that MLflow takes in one call
ANSWER_S, RETRIES = 5, 1  # how long training waits for a server
PAUSE = 20  # after a failure, times what it took: waiting costs training at most a twentieth


def find_or_create_run(
    client: MlflowClient, experiment: str, fingerprint: str, name: str, tags: dict[str, str]
) -> Run:
    """The one run of a fingerprint.

    Where two drivers made one at the same moment, both find the older from then on, and the other
    goes to MLflow's bin.
    """
    runs = _runs(client, experiment, fingerprint)
    if not runs:
        client.create_run(experiment, run_name=name, tags={FINGERPRINT: fingerprint, **tags})
        runs = _runs(client, experiment, fingerprint)
    for double in runs[1:]:
        if not double.data.metrics:
            client.delete_run(double.info.run_id)
    return runs[0]


def _runs(client: MlflowClient, experiment: str, fingerprint: str) -> list[Run]:
    """The oldest first."""
    runs = client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{fingerprint}'")
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def log_history(
    client: MlflowClient,
    run_id: str,
    rows: Collection[EpochMetrics],
    ended: Mapping[int, int] | None = None,
) -> None:
    """Logs rows that are not there yet: one point an epoch, however often this is called.

    Args:
        client: Of MLflow.
        run_id: Where to.
        rows: Of history.
        ended: When epochs ended, in milliseconds; where that is not known, they end now. MLflow
            takes the same point at the same time for the same one, should an answer get lost.
    """
    from mlflow.entities import Metric

    seen = {point.step for point in client.get_metric_history(run_id, "train/total")}
    now = time.time_ns() // 1_000_000
    batch: list[Metric] = []
    for row in rows:
        if (step := int(row["epoch"])) in seen:
            continue
        at = (ended or {}).get(step, now)
        points = [Metric(name, value, at, step) for name, value in epoch_metrics(row).items()]
        if len(batch) + len(points) > AT_ONCE:
            client.log_batch(run_id, metrics=batch)
            batch = []
        batch += points  # an epoch goes as a whole, so that it is there with all its points
    if batch:
        client.log_batch(run_id, metrics=batch)


def log_metrics(client: MlflowClient, run: Run, values: dict[str, float]) -> None:
    """Logs numbers that belong to a run as a whole, where it shows others or none."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(name, float(value), now, 0)
        for name, value in values.items()
        if run.data.metrics.get(name) != float(value)
    ]
    for first in range(0, len(metrics), AT_ONCE):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + AT_ONCE])


def log_params(client: MlflowClient, run: Run, params: dict[str, Any]) -> None:
    """Logs params that the run does not have yet."""
    from mlflow.entities import Param

    missing = [Param(k, str(v)) for k, v in flatten(params).items() if k not in run.data.params]
    for first in range(0, len(missing), 100):  # MLflow's limit for one call
        client.log_batch(run.info.run_id, params=missing[first : first + 100])


def epoch_metrics(row: EpochMetrics) -> dict[str, float]:
    """A row of history under names that MLflow's page groups: `train/total`, `val/cosine`."""
    named = {}
    for key, value in row.items():
        group, _, name = key.partition("_")
        if group in ("train", "val"):
            named[f"{group}/{name}"] = float(value)
        elif key != "epoch":
            named[f"progress/{key}"] = float(value)
    return named


class LiveTracker:
    """Reports epochs to the run of a fingerprint, each once. Where MLflow is away, it says so once,
    keeps epochs, and tries again at later ones. As a context it starts the run, and shows one that
    an error has left as failed, or as killed after Ctrl-C.

    Args:
        target: Where runs go; None where nobody listens.
        fingerprint: Of the run.
        name: People read it.
        params: Logged once, flattened.
        tags: Of the run.
    """

    def __init__(
        self,
        target: TrackingTarget | None,
        fingerprint: str,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
    ) -> None:
        self.target, self.fingerprint, self.name = target, fingerprint, name
        self.params, self.tags = params, tags
        self._untold: dict[int, EpochMetrics] = {}  # by epoch
        self._ended: dict[int, int] = {}  # when they ended, in milliseconds
        self._lost = False
        self._not_before = 0.0  # by the clock on the wall: the tracker may move to another machine

    def __enter__(self) -> LiveTracker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and time.time() >= self._not_before:
            self._tell("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def start(self) -> None:
        """Finds or makes the run."""
        self._tell()

    def log_epoch(self, row: EpochMetrics) -> None:
        """Logs one row of history; does not try every time while MLflow is away."""
        self._keep([row])
        if time.time() >= self._not_before:
            self._tell()

    def log_epochs(self, rows: Collection[EpochMetrics]) -> None:
        """Logs those rows of history that are not there yet."""
        self._keep(rows)
        self._tell()

    def _keep(self, rows: Collection[EpochMetrics]) -> None:
        now = time.time_ns() // 1_000_000
        for row in rows:
            epoch = int(row["epoch"])
            self._untold[epoch] = row
            self._ended.setdefault(epoch, now)

    def _tell(self, status: str = "RUNNING") -> None:
        if self.target is None:
            return
        start = time.time()
        try:
            with patience(ANSWER_S, RETRIES):
                self._bring_up_to_date(self.target, status)
        except tracking_errors() as error:
            self._not_before = time.time() + PAUSE * (time.time() - start)
            if not self._lost:
                logger.warning(
                    "MLflow at %s cannot be written (%s); training goes on, later epochs try "
                    "again, and `kdeov publish` brings MLflow up to date",
                    self.target.address, one_line(error),
                )  # fmt: skip
            self._lost = True
        else:
            if self._lost:
                logger.info("MLflow at %s can be written again", self.target.address)
            self._lost = False
            self._untold.clear()

    def _bring_up_to_date(self, target: TrackingTarget, status: str) -> None:
        # looked up each time: a server that comes back may have lost or gained runs
        client = target.client()
        experiment = target.experiment_id(client)
        run = find_or_create_run(client, experiment, self.fingerprint, self.name, self.tags)
        log_params(client, run, self.params)
        if self._untold:
            log_history(client, run.info.run_id, self._untold.values(), self._ended)
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)
        elif run.info.status != status:
            client.update_run(run.info.run_id, status)


def run_tags(layout: Layout, record: RunRecord) -> dict[str, str]:
    """Where a run came from, as MLflow tags."""
    variables = ("STAGE", "EXP_NAME", "EXP_BASELINE_REV")
    dvc = {
        f"dvc.{v.lower()}": os.environ[f"DVC_{v}"] for v in variables if f"DVC_{v}" in os.environ
    }
    return {
        "mlflow.source.name": "stages/distill.py",
        "dataset": record.dataset,
        "teacher": record.teacher,
        **git_state(layout.root),
        **dvc,
    }
