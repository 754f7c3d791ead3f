"""The MLflow run of a fingerprint, and epochs logged to it while training runs.

There is one run a fingerprint. MLflow shows copies of files: if it cannot be reached, training goes
on, and a later epoch or `kdeov publish` logs the rest. Only the process that drives training uses
MLflow, never a worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config.params import flatten
from pipeline.tracking.drivers import DRIVER_TAG, end_abandoned_runs, this_process
from pipeline.tracking.errors import tracking_errors
from pipeline.tracking.tags import ON_GPU, machine_tags, set_tags
from pipeline.tracking.target import TrackingTarget, request_limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

logger = logging.getLogger(__name__)

EpochMetrics = dict[str, float]
"""Metrics of one epoch by column of `history.csv`; `epoch` counts from 1."""

FINGERPRINT_TAG = "kdeov.fingerprint"
MAX_METRICS_PER_BATCH = 1000  # MLflow's limit for a call
MAX_PARAMS_PER_BATCH = 100  # MLflow's limit for a call
REQUEST_TIMEOUT_S, MAX_RETRIES = 5, 1  # of a request during training
BACKOFF_FACTOR = 20  # pause after a failure, relative to its duration: costs at most 5% of the time


def find_or_create_run(
    client: MlflowClient, experiment: str, fingerprint: str, name: str, tags: dict[str, str]
) -> Run:
    """Returns the run of a fingerprint; creates it if it is missing.

    If two drivers created one at the same moment, both use the older; the other one is moved to
    MLflow's trash, and what only it has is logged again by `kdeov publish`.

    Args:
        client: MLflow's client.
        experiment: Id of the experiment.
        fingerprint: Fingerprint of the run.
        name: Name of a new run.
        tags: Tags of a new run.
    """
    runs = find_runs(client, experiment, fingerprint)
    if not runs:
        own = {FINGERPRINT_TAG: fingerprint, DRIVER_TAG: this_process()}
        client.create_run(experiment, run_name=name, tags={**own, **tags})
        runs = find_runs(client, experiment, fingerprint)
    for double in runs[1:]:
        client.delete_run(double.info.run_id)
    return runs[0]


def find_runs(client: MlflowClient, experiment: str, fingerprint: str) -> list[Run]:
    """The runs of a fingerprint, oldest first."""
    runs = client.search_runs([experiment], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def log_history(
    client: MlflowClient,
    run_id: str,
    history: Collection[EpochMetrics],
    end_times: Mapping[int, int] | None = None,
) -> None:
    """Logs the epochs that the run lacks: one point an epoch, however often this is called.

    Args:
        client: MLflow's client.
        run_id: Id of the run.
        history: Epochs.
        end_times: End of each epoch in milliseconds since 1970; now where it is missing. MLflow
            drops a point that repeats step, time and value, so a retry after a lost answer adds
            none.
    """
    from mlflow.entities import Metric

    logged = {point.step for point in client.get_metric_history(run_id, "train/total")}
    now = time.time_ns() // 1_000_000
    batch: list[Metric] = []
    for epoch in history:
        if (step := int(epoch["epoch"])) in logged:
            continue
        at = (end_times or {}).get(step, now)
        points = [Metric(name, value, at, step) for name, value in epoch_metrics(epoch).items()]
        if len(batch) + len(points) > MAX_METRICS_PER_BATCH:
            client.log_batch(run_id, metrics=batch)
            batch = []
        batch += points  # all points of an epoch go into one call: an epoch is logged or not
    if batch:
        client.log_batch(run_id, metrics=batch)


def log_metrics(
    client: MlflowClient, run: Run, values: dict[str, float], model: LoggedModel
) -> None:
    """Logs metrics of the run as a whole and of its model, where they have other values or none."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    of_model = {metric.key: metric.value for metric in model.metrics or ()}
    metrics = []
    for name, value in ((name, float(value)) for name, value in values.items()):
        is_logged = run.data.metrics.get(name) == value
        if is_logged and of_model.get(name) == value:
            continue
        # MLflow drops a point that repeats step, time and value: the model alone gets it
        points = client.get_metric_history(run.info.run_id, name) if is_logged else []
        at = max((point.timestamp for point in points), default=now)
        metrics.append(Metric(name, value, at, 0, model.model_id))
    for first in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + MAX_METRICS_PER_BATCH])


def log_params(client: MlflowClient, run: Run, params: dict[str, Any]) -> None:
    """Logs params that the run lacks, nested ones under dotted names."""
    from mlflow.entities import Param

    missing = [Param(k, str(v)) for k, v in flatten(params).items() if k not in run.data.params]
    for first in range(0, len(missing), MAX_PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=missing[first : first + MAX_PARAMS_PER_BATCH])


def epoch_metrics(epoch: EpochMetrics) -> dict[str, float]:
    """An epoch's metrics under names that MLflow's page groups: `train/total`, `val/cosine`, and
    `workload/images_per_s` for what depends on machines.
    """
    named = {}
    for key, value in epoch.items():
        group, _, name = key.partition("_")
        if group in ("train", "val"):
            # MLflow would take a slash, as in `val_region_cosine 1/16-1/4`, for another group
            named[f"{group}/{name.replace('/', ':')}"] = float(value)
        elif key == "learning_rate":
            named[f"train/{key}"] = float(value)
        elif key not in ("epoch", ON_GPU):
            named[f"workload/{key}"] = float(value)
    return named


class LiveTracker:
    """Logs epochs to the run of a fingerprint, each once.

    While MLflow cannot be reached, the tracker warns once, keeps epochs, and retries at later ones.
    As a context manager it starts the run; an exception leaves the run FAILED, Ctrl-C leaves it
    KILLED.

    Args:
        target: Tracking target; None to log nothing.
        fingerprint: Fingerprint of the run.
        name: Name of the run.
        params: Params of the run, logged once.
        tags: Tags of the run.
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
        self._pending: dict[int, EpochMetrics] = {}  # by epoch
        self._end_times: dict[int, int] = {}  # by epoch, in milliseconds since 1970
        self._unreachable = False
        self._has_swept = False  # abandoned runs of the experiment
        self._retry_at = 0.0  # wall-clock time: the tracker may be moved to another machine

    def __enter__(self) -> LiveTracker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and time.time() >= self._retry_at:
            self._sync("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def start(self) -> None:
        """Finds or creates the run, and sets it to RUNNING."""
        self._sync()

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Logs one epoch; after a failure, only once the pause is over."""
        self._add([epoch])
        if time.time() >= self._retry_at:
            self._sync()

    def log_epochs(self, history: Collection[EpochMetrics]) -> None:
        """Logs the epochs that the run lacks, at once."""
        self._add(history)
        self._sync()

    def _add(self, history: Collection[EpochMetrics]) -> None:
        now = time.time_ns() // 1_000_000
        for metrics in history:
            epoch = int(metrics["epoch"])
            self._pending[epoch] = metrics
            self._end_times.setdefault(epoch, now)

    def _sync(self, status: str = "RUNNING") -> None:
        if self.target is None:
            return
        start = time.time()
        try:
            with request_limits(REQUEST_TIMEOUT_S, MAX_RETRIES):
                self._write(self.target, status)
        except tracking_errors() as error:
            self._retry_at = time.time() + BACKOFF_FACTOR * (time.time() - start)
            if not self._unreachable:
                logger.warning(
                    "MLflow at %s cannot be written (%s); %s; training continues, later epochs "
                    "retry, and `kdeov publish` logs the rest",
                    self.target.address,
                    *self.target.explain(error),
                )
            self._unreachable = True
        else:
            if self._unreachable:
                logger.info("MLflow at %s can be written again", self.target.address)
            self._unreachable = False
            self._pending.clear()

    def _write(self, target: TrackingTarget, status: str) -> None:
        # looked up each time: a server that comes back may have lost or gained runs
        client = target.client()
        experiment = target.experiment_id(client)
        run = find_or_create_run(client, experiment, self.fingerprint, self.name, self.tags)
        if run.data.tags.get(DRIVER_TAG) != (driver := this_process()):
            client.set_tag(run.info.run_id, DRIVER_TAG, driver)
        if not self._has_swept:
            end_abandoned_runs(client, experiment, run)
            self._has_swept = True
        log_params(client, run, self.params)
        if self._pending:
            log_history(client, run.info.run_id, self._pending.values(), self._end_times)
            set_tags(client, run, machine_tags(self._pending[max(self._pending)]))
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)
        elif run.info.status != status:
            client.update_run(run.info.run_id, status)
