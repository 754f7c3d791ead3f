"""The files of a run in MLflow: artifacts that `kdeov publish` wrote."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeov.errors import ConfigError, StorageError
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.tracking.download import PROGRESS_VARIABLE
from pipeline.tracking.errors import one_line, tracking_errors
from pipeline.tracking.target import TrackingTarget, request_limits

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "runs:/"
MAX_RUNS = 1000  # whose names are looked through
FOLDERS = {"out/evaluation/": "evaluation/"}  # of a checkout, and what MLflow calls them


@dataclass(frozen=True)
class MlflowFiles:
    """A run in MLflow.

    Attributes:
        client: MLflow's client.
        run_id: Id of the run.
        label: What people call it.
        params: Its params, as texts by dotted name.
    """

    client: MlflowClient
    run_id: str
    label: str
    params: dict[str, Any]

    def read(self, path: str) -> bytes | None:
        """The bytes of an artifact; None if the run has no such file.

        Raises:
            StorageError: MLflow cannot be read.
        """
        for folder, name in FOLDERS.items():
            path = path.replace(folder, name, 1) if path.startswith(folder) else path
        if path not in self._names(str(Path(path).parent)):
            return None
        os.environ.setdefault(PROGRESS_VARIABLE, "false")
        with tempfile.TemporaryDirectory(prefix="kdeov-compare-") as folder:
            try:
                file = self.client.download_artifacts(self.run_id, path, folder)
            except tracking_errors() as error:
                raise StorageError(
                    f"{self.where(path)}: cannot be read ({one_line(error)}); check MLflow's files"
                ) from error
            return Path(file).read_bytes()

    def where(self, path: str) -> str:
        """The artifact, of which run."""
        return f"{path} of {self.label}"

    def _names(self, folder: str) -> set[str]:
        """Paths of the artifacts in a folder."""
        if folder not in self._listed:
            found = self.client.list_artifacts(self.run_id, folder if folder != "." else None)
            self._listed[folder] = {file.path for file in found}
        return self._listed[folder]

    @cached_property
    def _listed(self) -> dict[str, set[str]]:
        return {}


def find_in_mlflow(name: str, layout: Layout) -> tuple[MlflowFiles | None, list[str]]:
    """The run with an id or a name in the checkout's MLflow.

    Args:
        name: Its id, also as `runs:/ID`, or its name; the newest where several have it.
        layout: The checkout.

    Returns:
        The run, None where there is none; and the names of all runs.

    Raises:
        ConfigError: The experiment is deleted, or MLflow's address is wrong.
        StorageError: MLflow cannot be read.
    """
    target = TrackingTarget.of(load_params(layout.params).tracking, layout)
    if not target.is_server and target.file is not None and not target.file.is_file():
        return None, []
    wanted = name.removeprefix(PREFIX)
    try:
        with request_limits(timeout_s=10, max_retries=1):
            client = target.client()
            experiment = target.find_experiment(client)
            runs = [] if experiment is None else client.search_runs(
                [experiment], max_results=MAX_RUNS, order_by=["attributes.start_time DESC"]
            )  # fmt: skip
    except tracking_errors() as error:
        reason, cure = target.explain(error)
        kind = ConfigError if "deleted" in reason else StorageError
        raise kind(
            f"{name}: no git revision or DVC experiment, and MLflow at {target.address} "
            f"cannot be read ({reason}); {cure}"
        ) from error
    for run in runs:
        if wanted in (run.info.run_id, run.info.run_name):
            label = run.info.run_name or run.info.run_id
            return MlflowFiles(client, run.info.run_id, label, dict(run.data.params)), []
    return None, [run.info.run_name for run in runs if run.info.run_name]
