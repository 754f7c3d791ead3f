"""MLflow: where it is, the one run that belongs to a fingerprint, and epochs reported while they
happen.

Files are the truth; MLflow shows them. When it cannot be reached, training goes on, and `kdeov
publish` brings it up to date later.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeov.errors import KdeovError
from pipeline.cluster.node import on_cluster
from pipeline.layout import Layout
from pipeline.params import TrackingParams

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FINGERPRINT = "kdeov.fingerprint"


@dataclass(frozen=True)
class TrackingTarget:
    """Where runs go; plain strings, so that it can be sent to Ray's controller.

    Attributes:
        uri: MLflow's tracking address.
        experiment: Name of the experiment.
        artifacts: Where a new experiment in a local database keeps its files; None leaves it to the
            server.
    """

    uri: str
    experiment: str
    artifacts: str | None

    @classmethod
    def of(cls, params: TrackingParams, layout: Layout) -> TrackingTarget:
        """`MLFLOW_TRACKING_URI`, else `tracking.uri`, else a database under `work/`.

        Raises:
            KdeovError: A folder of files, which MLflow no longer takes.
        """
        uri = os.environ.get("MLFLOW_TRACKING_URI") or params.uri
        if uri is None:
            database = layout.tracking_database
            return cls(
                f"sqlite:///{database}", params.experiment, (database.parent / "artifacts").as_uri()
            )
        if "://" not in uri or uri.startswith("file:"):
            raise KdeovError(
                f"tracking.uri {uri!r} is a folder, which MLflow no longer takes; "
                "give sqlite:///... or http://..., and move old runs with `mlflow "
                "migrate-filestore`"
            )
        return cls(uri, params.experiment, None)

    def client(self) -> MlflowClient:
        """A client; makes the folder of a local database."""
        from mlflow import MlflowClient

        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        else:  # MLflow would try a dead server for minutes
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        _quiet()
        return MlflowClient(self.uri)

    def experiment_id(self, client: MlflowClient) -> str:
        """The experiment, made where it is missing."""
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        return client.create_experiment(self.experiment, artifact_location=self.artifacts)


def find_run(client: MlflowClient, experiment: str, fingerprint: str) -> Run | None:
    """The run of a fingerprint, if there is one."""
    runs = client.search_runs(
        [experiment], f"tags.`{FINGERPRINT}` = '{fingerprint}'", max_results=1
    )
    return runs[0] if runs else None


def find_or_create_run(
    client: MlflowClient, experiment: str, fingerprint: str, name: str, tags: dict[str, str]
) -> Run:
    """The one run of a fingerprint, running again if it had ended."""
    run = find_run(client, experiment, fingerprint)
    if run is None:
        return client.create_run(experiment, run_name=name, tags={FINGERPRINT: fingerprint, **tags})
    client.update_run(run.info.run_id, status="RUNNING")
    return run


def log_history(client: MlflowClient, run_id: str, rows: list[dict[str, float]]) -> None:
    """Logs rows that are not there yet: one point an epoch, however often this is called."""
    from mlflow.entities import Metric

    seen = {point.step for point in client.get_metric_history(run_id, "train/total")}
    for row in rows:
        if (step := int(row["epoch"])) not in seen:
            now = time.time_ns() // 1_000_000
            points = [Metric(name, value, now, step) for name, value in epoch_metrics(row).items()]
            client.log_batch(run_id, metrics=points)


def log_metrics(client: MlflowClient, run_id: str, values: dict[str, float]) -> None:
    """Logs numbers that belong to a run as a whole."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    client.log_batch(run_id, metrics=[Metric(name, float(v), now, 0) for name, v in values.items()])


def epoch_metrics(row: dict[str, float]) -> dict[str, float]:
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
    """Reports epochs to the run of a fingerprint; says once when MLflow cannot be reached.

    Args:
        target: Where runs go.
        fingerprint: Of the run.
        name: People read it.
        params: Logged once, flattened.
        tags: Of the run.
    """

    def __init__(
        self,
        target: TrackingTarget,
        fingerprint: str,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
    ) -> None:
        self.target, self.fingerprint, self.name = target, fingerprint, name
        self.params, self.tags = params, tags
        self._run_id: str | None = None
        self._client: MlflowClient | None = None
        self._lost = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # a client does not travel to Ray's controller

    def start(self) -> None:
        """Finds or makes the run."""
        if on_cluster() and not self.target.uri.startswith("http"):
            self._lost = True
            logger.info("MLflow is a database of one machine: it will hear of this run when the "
                        "results are there")  # fmt: skip
        self._try(self._open)

    def log_epoch(self, row: dict[str, float]) -> None:
        """Logs one row of history."""
        self.log_epochs([row])

    def log_epochs(self, rows: list[dict[str, float]]) -> None:
        """Logs those rows of history that are not there yet."""
        self._try(lambda: log_history(self._open(), self._run_id or "", rows))

    def _open(self) -> MlflowClient:
        if self._client is None:
            client = self.target.client()
            if self._run_id is None:
                experiment = self.target.experiment_id(client)
                run = find_or_create_run(client, experiment, self.fingerprint, self.name, self.tags)
                self._run_id = run.info.run_id
                log_params(client, run, self.params)
            self._client = client
        return self._client

    def _try(self, action: Any) -> None:
        if self._lost:
            return
        try:
            action()
        except tracking_errors() as error:
            self._lost = True
            logger.warning(
                "MLflow at %s cannot be written (%s); training goes on, and `kdeov publish` "
                "brings MLflow up to date",
                self.target.uri, one_line(error),
            )  # fmt: skip


def tracking_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its server or database cannot be used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def log_params(client: MlflowClient, run: Run, params: dict[str, Any]) -> None:
    """Logs params that the run does not have yet."""
    from mlflow.entities import Param

    missing = [Param(k, str(v)) for k, v in flatten(params).items() if k not in run.data.params]
    for first in range(0, len(missing), 100):  # MLflow's limit for one call
        client.log_batch(run.info.run_id, params=missing[first : first + 100])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _quiet() -> None:
    """Database migrations and retries are of no interest to the person at the console."""
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
