"""What MLflow shows of a run between its epochs: the loss by step, and the load of this machine.

A thread of the process that drives training reads and logs both. As for epochs, MLflow being away
costs no training: the thread retries, and `kdeov publish` logs the steps that are missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kdeov.errors import KdeovError
from pipeline.tracking.compat import SystemMetrics
from pipeline.tracking.errors import one_line, tracking_errors
from pipeline.tracking.mlflow_run import (
    BACKOFF_FACTOR,
    MAX_METRICS_PER_BATCH,
    MAX_RETRIES,
    REQUEST_TIMEOUT_S,
    find_runs,
)
from pipeline.tracking.target import TrackingTarget, request_limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0  # between samples; MLflow's own interval
STEP_LOSS = "train/loss_by_step"
SYSTEM_GROUP = "system/"  # MLflow's page shows such metrics on a page of their own
Points = list[tuple[int, float]]


def log_steps(client: MlflowClient, run_id: str, points: Points) -> None:
    """Logs the points of the loss by step that a run lacks, however often this is called."""
    from mlflow.entities import Metric

    if not points:
        return
    logged = {point.step for point in client.get_metric_history(run_id, STEP_LOSS)}
    now = time.time_ns() // 1_000_000
    metrics = [Metric(STEP_LOSS, loss, now, step) for step, loss in points if step not in logged]
    for first in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + MAX_METRICS_PER_BATCH])


class RunWatcher:
    """Logs the loss by step and the load of this machine while its `with` block runs.

    Args:
        target: Tracking target; None to log nothing.
        fingerprint: Fingerprint of the run, which is there or comes.
        curve: Returns the points of the loss by step that came since its last call.
        system_metrics: Whether the load of this machine is logged.
        interval_s: Seconds between samples.
    """

    def __init__(
        self,
        target: TrackingTarget | None,
        fingerprint: str,
        curve: Callable[[], Points],
        system_metrics: bool,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.target, self.fingerprint, self.curve = target, fingerprint, curve
        self.system_metrics, self.interval_s = system_metrics, interval_s
        self._points: Points = []  # not logged yet
        self._samples: list[Metric] = []  # not logged yet
        self._sampler: SystemMetrics | None = None
        self._stop, self._exit = threading.Event(), ExitStack()
        self._retry_at = 0.0

    def __enter__(self) -> RunWatcher:
        if self.target is not None:
            # set here and not by the thread, which shares the environment with the main one
            self._exit.enter_context(request_limits(REQUEST_TIMEOUT_S, MAX_RETRIES))
            thread = threading.Thread(target=self._watch, name="kdeov-mlflow", daemon=True)
            thread.start()
            self._exit.callback(thread.join)
            self._exit.callback(self._stop.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._look()
        self._look(is_last=True)

    def _look(self, is_last: bool = False) -> None:
        """Reads what is new, and logs it; after a failure, only once the pause is over."""
        try:
            self._points += self.curve()
            if self.system_metrics and not is_last:
                self._sample()
        except KdeovError as error:  # training meets it too, and names it
            logger.debug("%s", error)
        if time.monotonic() < self._retry_at:
            return
        start = time.monotonic()
        try:
            self._write()
        except tracking_errors() as error:  # the tracker of epochs warns
            self._retry_at = time.monotonic() + BACKOFF_FACTOR * (time.monotonic() - start)
            logger.debug("%s", one_line(error))

    def _sample(self) -> None:
        from mlflow.entities import Metric

        if self._sampler is None:
            self._sampler = SystemMetrics()
        now = time.time()
        # a number that no later process of the run gives again
        step = int(now / self.interval_s)
        for name, value in self._sampler.sample().items():
            self._samples.append(Metric(SYSTEM_GROUP + name, value, int(1000 * now), step))
        del self._samples[:-MAX_METRICS_PER_BATCH]  # older ones, where MLflow is away for long

    def _write(self) -> None:
        if self.target is None or not (self._points or self._samples):
            return
        client = self.target.client()
        experiment = self.target.find_experiment(client)
        runs = find_runs(client, experiment, self.fingerprint) if experiment else []
        if not runs:
            return
        run_id = runs[0].info.run_id
        log_steps(client, run_id, self._points)
        self._points = []
        if self._samples:
            client.log_batch(run_id, metrics=self._samples)
            self._samples = []
