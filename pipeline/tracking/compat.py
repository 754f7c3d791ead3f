"""Names that MLflow reads but does not document. Read in MLflow 3.17.2.

`tests/pipeline/tracking/test_compat.py` compares them with the installed MLflow.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

DATASET_CONTEXT_TAG = "mlflow.data.context"
"""Tag of a logged data set: what the run used it for, such as `training`."""

DESCRIPTION_TAG = "mlflow.note.content"
"""Tag of a run with its description, in Markdown."""

PARENT_TAG = "mlflow.parentRunId"
"""Tag of a run with the id of the run that it is a part of."""

SOURCE_NAME_TAG = "mlflow.source.name"
"""Tag of a run with the script that made it."""

VIEW = "workflowType=machine_learning"
"""Query of a page's address. Without it, the page opens on its GenAI side, which is empty."""

EXPERIMENT_KIND_TAG, EXPERIMENT_KIND = "mlflow.experimentKind", "custom_model_development"
"""Tag of an experiment that is no GenAI one: without it, the page asks which kind it is."""

SHARED_VIEW_TAG, SHARED_VIEW_KEY = "mlflow.sharedViewState.kdeov", "viewStateShareKey=kdeov"
"""Tag of an experiment with a view of its table of runs, as JSON, and the query that opens it."""

HOSTS_VARIABLE, ORIGINS_VARIABLE = (
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
)
"""Environment variables: names of the machine, and addresses of pages, that `mlflow server`
answers.
"""

JOB_EXECUTION_VARIABLE = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
"""Environment variable: whether `mlflow server` starts processes for background jobs."""

FILE_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Columns of the database with addresses of files."""


def schema_history() -> ScriptDirectory:
    """The revisions of the database's schema."""
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))


def make_tables(uri: str, artifacts: str) -> None:
    """Makes the tables of an empty database, and keeps no connection to it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifacts).engine.dispose()


def forget_folders() -> None:
    """Empties MLflow's memory of where the files of a run lie: it is by run alone, and a copy of a
    checkout has runs of the same ids.
    """
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


class SystemMetrics:
    """The load of this machine, as MLflow's own monitors read it: processors, memory, disks,
    network and, where its library is installed, GPUs. MLflow's thread for them ends at the first
    error of a server, so `pipeline/tracking/watch.py` has its own.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.monitors: list[Any] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            # without a GPU or its library, without a network, or without a readable /proc
            with suppress(ImportError, RuntimeError, AttributeError, OSError, psutil.Error):
                monitor = kind()
                # the first values have no time that they are relative to
                monitor.collect_metrics()
                monitor.clear_metrics()
                self.monitors.append(monitor)

    def sample(self) -> dict[str, float]:
        """The load since the last sample, by name."""
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= {name: float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return values
